"""`python -m ops.demo`: set everything up, play it, stop it, and say what was measured.

Exit codes: 0 every claim held; 1 one did not, or something broke; 2 bad arguments or traffic; 130 stopped by Ctrl-C.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from ops.demo.command import run_json
from ops.demo.measures.answers import escalated, examples
from ops.demo.measures.measure import windows
from ops.demo.measures.records import Records
from ops.demo.measures.summary import DemoRecord, Measured, build
from ops.demo.page.charts import charts
from ops.demo.page.live_view import DemoShow, live_view
from ops.demo.page.picture import headline
from ops.demo.page.report import write_report
from ops.demo.plan import SHARES, WINDOWS, DemoPlan, pace_of, prepare_traffic
from ops.demo.processes import DemoError, Descendants, explain_end, running
from ops.demo.site import configure, make_site
from ops.demo.stage import DemoRun
from ops.demo.tasks.play import RATE, DemoTraffic, Pace
from ops.demo.tasks.tasks import TASKS
from ops.demo.traffic.client import Client
from ops.demo.traffic.recorded_teacher import RUN_NAME
from ops.settings import Settings
from ops.show.canvas import draw_figure
from ops.site import Site
from ops.state.run_files import read_run_file
from ops.status.collect import collect
from store.errors import SettingsError, UnderstudyError

BAD_ARGUMENTS: Final = 2
INTERRUPTED: Final = 130
_READY_S: Final = 120.0
_POLL_S: Final = 0.1
_GONE_S: Final = 5.0
_NAMED_BAD: Final = 10
_BUDGET_RATIOS: Final = (0.05, 0.1, 0.2)  # teacher calls of the closing backtest, of all requests
_BACKTEST_S: Final = 240.0
BACKTESTED: Final = frozenset({"classify"})


@dataclass(kw_only=True)
class Demo:
    """One demo, start to end."""

    plan: DemoPlan
    console: Console
    started_s: float = field(default_factory=time.monotonic)
    descendants: Descendants = field(default_factory=Descendants)

    async def run(self) -> dict[str, Any]:
        """Play it and write what it leaves; the summary."""
        self.plan.out.mkdir(parents=True, exist_ok=True)
        traffic = prepare_traffic(self.plan)
        for one in traffic:
            self._say_traffic(one)
        stages, changed, verified = await self._play(traffic)
        if any(one.task in BACKTESTED for one in traffic):
            self._say(
                "backtest: what a budget instead of a promise would have made of the same traffic, the head alone"
            )
        bought = {str(one.lane): await self._backtest(one) for one in traffic if one.task in BACKTESTED}
        left = await asyncio.to_thread(self.descendants.left, self.plan.state, patience_s=_GONE_S)
        pictures = {str(stage.traffic.lane): stage.picture() for stage in stages}
        figure = self.plan.out / "run.png"
        draw_figure(figure, headline(pictures), charts(pictures))
        summary = build(
            DemoRecord(
                lanes=[measured(stage, bought.get(str(stage.traffic.lane), [])) for stage in stages],
                settings_changed=changed,
                wall_s=time.monotonic() - self.started_s,
                children_left=left,
                verified=verified,
                figures=[{"path": str(figure), "sha256": hashlib.sha256(figure.read_bytes()).hexdigest()}],
            )
        )
        write_report(summary, pictures, self.plan.out / "report.html")
        (self.plan.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        return summary

    async def _play(self, traffic: Sequence[DemoTraffic]) -> tuple[list[DemoRun], dict[str, Any], bool]:
        """Start the processes, play, and stop them whatever happens."""
        logs = self.plan.out / "logs"
        logs.mkdir(exist_ok=True)
        with ExitStack() as stack:
            config = make_site(self.plan)
            teacher, url = await self._start_teacher(stack, traffic, logs / "teacher.log")
            changed = configure(config, self.plan, traffic, url)
            self._say_settings(changed, [pace_of(self.plan, one, traffic) for one in traffic])
            everything = stack.enter_context(
                running(
                    "understudy run all",
                    ("ops.cli", "run", "all", "--config", str(config.resolve())),
                    folder=self.plan.state,
                    log=logs / "understudy.log",
                )
            )

            def check() -> None:
                for name, process, log in (
                    ("the recorded teacher", teacher, logs / "teacher.log"),
                    ("understudy run all", everything, logs / "understudy.log"),
                ):
                    if (why := explain_end(name, process, log)) is not None:
                        raise DemoError(why)

            site = Site(Settings.load(config))
            port = await self._await_ready(site, check)
            with live_view(self.console) as show:
                stages = [
                    self._stage(one, traffic, site=site, config=config, port=port, show=show, check=check)
                    for one in traffic
                ]
                async with asyncio.TaskGroup() as group:
                    for stage in stages:
                        group.create_task(stage.play())
                verified = await self._verify(stages, config, show)
            self.descendants.look()
        return stages, changed, verified

    def _stage(
        self,
        one: DemoTraffic,
        traffic: Sequence[DemoTraffic],
        *,
        site: Site,
        config: Path,
        port: int,
        show: DemoShow,
        check: Callable[[], None],
    ) -> DemoRun:
        """One lane's; the first has the planted challenger and the rollback."""
        records = Records(site=site, lane=one.lane, rules=one.rules, meant=TASKS[one.task].meant)
        return DemoRun(
            plan=self.plan,
            traffic=one,
            pace=pace_of(self.plan, one, traffic),
            acts=one is traffic[0],
            config=config,
            records=records,
            client=Client(f"http://127.0.0.1:{port}", one, TASKS[one.task], records.item_id_of),
            descendants=self.descendants,
            show=show,
            check=check,
            started_s=self.started_s,
        )

    async def _verify(self, stages: Sequence[DemoRun], config: Path, show: DemoShow) -> bool:
        """What `understudy verify` says of everything."""
        for stage in stages:
            stage.phase = "verifying"
            show(stage.board())
        ran = await run_json("ops.cli", "verify", "--config", str(config), "-o", "json")
        for stage in stages:
            await stage.look()
            stage.phase = "stopping"
            show(stage.board())
        return ran.code == 0 and ran.answer.get("ok") is True

    async def _backtest(self, traffic: DemoTraffic) -> list[dict[str, Any]]:
        """What `understudy backtest` says of the same traffic at three budgets.

        Raises:
            DemoError: it did not end well.
        """
        rows = len(traffic.requests)
        budgets = [max(1, round(share * rows)) for share in _BUDGET_RATIOS]
        ran = await run_json(
            *("ops.cli", "backtest", str(traffic.file), "--seeds", "1", "--no-fine-tune", "-o", "json"),
            *("--budget", ",".join(map(str, budgets)), "--out", str(self.plan.out / "backtest")),
            timeout_s=_BACKTEST_S,
        )
        if ran.code:
            message = f"`understudy backtest` ended with code {ran.code}"
            raise DemoError(message)
        points = [
            {
                "calls": run["calls"],
                "system_agreement": run["agreement"],
                "random_agreement": run["random_agreement"],
                "oracle_agreement": run["oracle_agreement"],
            }
            for run in ran.answer["runs"]
        ]
        for point in points:
            self._say(
                f"  {point['calls']:,} calls: {point['system_agreement']:.1%} of all answers are the teacher's"
                f" (the same calls at random {point['random_agreement']:.1%}, by an oracle"
                f" {point['oracle_agreement']:.1%})"
            )
        return points

    async def _start_teacher(
        self, stack: ExitStack, traffic: Sequence[DemoTraffic], log: Path
    ) -> tuple[subprocess.Popen[bytes], str]:
        """The recorded teacher's process and its address."""
        state = self.plan.state.resolve()
        lists = [part for one in traffic for part in TASKS[one.task].recorded(one, state / "prompts")]
        command = ("ops.demo.traffic.recorded_teacher", *lists, "--run-folder", str(state))
        teacher = stack.enter_context(running("the recorded teacher", command, folder=state, log=log))

        def port() -> int | None:
            if (why := explain_end("the recorded teacher", teacher, log)) is not None:
                raise DemoError(why)
            found = read_run_file(state, RUN_NAME)
            return found.port if found is not None else None

        return teacher, f"http://127.0.0.1:{await _wait_for(port, 'the recorded teacher')}/v1"

    async def _await_ready(self, site: Site, check: Callable[[], None]) -> int:
        """Wait until gateway, ingest and trainer say that they are ready; the gateway's port."""

        def port() -> int | None:
            check()
            status = collect(site, [])
            if not all(process.ready for process in status.processes):
                return None
            return next(process.port for process in status.processes if process.name == "serve")

        return await _wait_for(port, "gateway, ingest and trainer")

    def _say_traffic(self, traffic: DemoTraffic) -> None:
        self._say(f"traffic of {traffic.lane}: {len(traffic.requests):,} requests, {traffic.path}")
        for bad in traffic.skipped[:_NAMED_BAD]:
            self._say(f"  line {bad.line} skipped: {bad.why}")
        if len(traffic.skipped) > _NAMED_BAD:
            self._say(f"  and {len(traffic.skipped) - _NAMED_BAD} more lines skipped")

    def _say_settings(self, changed: Mapping[str, Any], paces: Sequence[Pace]) -> None:
        self._say("settings that differ from production's:")
        for name, (production, demo) in changed.items():
            self._say(f"  {name} = {json.dumps(demo)} (production: {json.dumps(production)})")
        self._say(f"pace: about {sum(one.rate for one in paces):g} requests a second")
        for rush in (one.rush for one in paces if one.rush):
            self._say(f"the first {rush} come at once, and the others when the first student is there")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def measured(stage: DemoRun, bought: Sequence[Mapping[str, Any]]) -> Measured:
    """What there is to say of a lane when everything has stopped."""
    judged, records = stage.judged(), stage.records
    return Measured(
        traffic=stage.traffic,
        acts=stage.acts,
        outcomes=stage.client.outcomes,
        judged=judged,
        windows=windows(judged, WINDOWS),
        first_agreement=records.first_agreement(),
        ledger=stage.ledger(),
        promise=stage.promise(),
        money=stage.money(),
        cycles=records.cycles,
        planted=stage.planted,
        swaps=records.swaps,
        rollback=stage.rollback,
        bought=bought,
        escalated=escalated(records.log.values()),
        examples=examples(stage.traffic.requests, stage.client.outcomes, records.log, TASKS[stage.traffic.task]),
    )


async def _wait_for(look: Callable[[], int | None], what: str) -> int:
    """Poll until there is an answer.

    Raises:
        DemoError: there is none within two minutes.
    """
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        if (found := await asyncio.to_thread(look)) is not None:
            return found
        await asyncio.sleep(_POLL_S)
    message = f"{what} did not become ready within {_READY_S:.0f} s: see the folder logs beside the report"
    raise DemoError(message)


async def _run_until_signal(demo: Demo) -> dict[str, Any] | None:
    """Run the demo; None when Ctrl-C or SIGTERM stopped it, after everything has ended."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(demo.run())
    asked = False

    def ask() -> None:
        nonlocal asked
        if not asked:  # a terminal and `make` may both send one; a second would tear the stopping apart
            asked = True
            demo.console.print("\nstopping everything …", highlight=False)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`: it may close
            loop.add_signal_handler(number, ask)
    try:
        return await task
    except asyncio.CancelledError:
        return None


def parse(arguments: Sequence[str] | None = None) -> DemoPlan:
    """The plan that the arguments describe."""
    promised = ", ".join(f"{name} {one.target:g}" for name, one in TASKS.items())
    parser = argparse.ArgumentParser(prog="python -m ops.demo", description="The whole loop on one machine, measured.")
    parser.add_argument(
        "--task",
        choices=list(TASKS),
        help=f"play this one alone (default: {' and '.join(SHARES)} at once; a file: classify)",
    )
    parser.add_argument("--traffic", type=Path, help="JSONL with a question and a teacher's recorded answer a row")
    parser.add_argument(
        "--target",
        type=float,
        help=f"answered agreement to promise (default: {promised})",
    )
    parser.add_argument("--seed", type=int, default=1, help="of traffic, order and pace (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="send only so many, of each lane")
    parser.add_argument(
        "--rate", type=float, help=f"requests a second (default: {RATE:g}, or what a task alone can do)"
    )
    parser.add_argument("--file-order", action="store_true", help="send a file's rows in their order")
    parser.add_argument("--text-column", help="where a row has its text; a dot goes into an object")
    parser.add_argument("--label-column", help="where a row has the teacher's answer")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="what is left behind (default: %(default)s)")
    found = parser.parse_args(arguments)
    if found.target is not None and not 0 < found.target < 1:
        parser.error("--target: a share between 0 and 1, such as .9")
    if (found.rate is not None and found.rate <= 0) or (found.requests is not None and found.requests < WINDOWS):
        parser.error(f"--rate must be above 0 and --requests {WINDOWS} or more")
    return DemoPlan(**vars(found))


def main() -> int:
    """Run it; the exit code."""
    plan, console = parse(), Console()
    try:
        summary = asyncio.run(_run_until_signal(Demo(plan=plan, console=console)))
    except (UnderstudyError, ExceptionGroup) as error:
        known = _known(error)
        if known is None:
            raise
        sys.stderr.write(f"the demo could not be played: {known}\n")
        return BAD_ARGUMENTS if isinstance(known, SettingsError) else 1
    if summary is None:
        sys.stderr.write("stopped; nothing of the demo is left running\n")
        return INTERRUPTED
    for claim in summary["broken_claims"]:
        sys.stderr.write(f"a claim did not hold: {claim}\n")
    console.print(f"report: {plan.out / 'report.html'}   figure: {plan.out / 'run.png'}", highlight=False)
    sys.stderr.flush()
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if summary["broken_claims"] else 0


def _known(error: BaseException) -> UnderstudyError | None:
    """The error of ours in a group of a task's errors, if there is one."""
    if isinstance(error, UnderstudyError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := _known(inner)) is not None), None)
    return None


if __name__ == "__main__":
    sys.exit(main())
