"""One backtest from its options to its files: which runs, in how many processes, and what is written of them."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from ops.backtest.findings import Finished, Measure, assemble, measure_of, points_of, steps_of
from ops.backtest.log import Log
from ops.backtest.options import Options
from ops.backtest.recommend import headline, recommend, settings_toml
from ops.backtest.records import Answers, Ask, Backtest, BacktestPrices
from ops.backtest.report.charts import charts
from ops.backtest.report.page import write_page
from ops.backtest.report.published import PublishedScore, read_published
from ops.backtest.runs.pool import Pool, PoolResult, in_order
from ops.backtest.runs.work import Done, ReplaySource
from ops.backtest.tasks.logs import LOGS, read
from ops.sections import BudgetSection, LaneSection, PromiseSection
from ops.settings import Settings, read_prompt
from ops.show.canvas import draw_figure
from ops.show.progress import Show
from ops.site import Site
from store.answers.rules import NO_RULES
from store.errors import SettingsError
from store.student.chat.folder import find_decoder
from store.student.folder import MINILM, find_encoder

_AUDIT_RATIO: Final[float] = LaneSection.model_fields["audit_ratio"].default
_AUDIT_RESERVE_RATIO: Final[float] = BudgetSection.model_fields["audit_reserve_ratio"].default
_CHARS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a backtest."""

    backtest: Backtest | None  # None: no run has ended
    outcome: PoolResult
    files: list[Path]
    untimed_why: str | None  # see Log


@dataclass(slots=True, kw_only=True)
class _Kept:
    """The runs that have ended; of each budget the answers of the lowest seed alone."""

    measure: Measure
    finished: list[Finished]
    first: dict[int, Done]

    def keep(self, done: Done) -> None:
        """Take one."""
        self.finished.append(Finished(run=done.run, right=self.measure.right(done.answers)))
        ask = done.run.ask
        if ask.budget not in self.first or ask.seed < self.first[ask.budget].run.ask.seed:
            self.first[ask.budget] = done


def run_backtest(options: Options, show: Show) -> Result:
    """Read the log, do all runs, write the files.

    Args:
        options: as the user gave them.
        show: takes the progress.

    Raises:
        SettingsError: an option or the log cannot be used; the message names the flag.
    """
    options.check()
    if options.answers is not None:
        _check_answers(options.answers, options)
    settings, lane = _lane(options)
    published = read_published(options.published) if options.published is not None else []
    rules = Site(settings).rules(lane.lane) if settings is not None and lane is not None else NO_RULES
    task = options.task or (lane.task if lane is not None else "classify")
    if lane is not None and lane.task != task:
        message = f"--task {task}: {lane.lane} is a lane of {lane.task}"
        raise SettingsError(message)
    log = read(task, options, lane, rules)
    named, encoder = _encoder(options, settings)
    asks = in_order(_asks(options, log, settings, lane))
    price = options.usd_per_call if options.usd_per_call is not None else _usd_per_call(lane, log)
    prices = BacktestPrices(usd_per_call=price, usd_per_training_hour=options.usd_per_training_hour)
    kept = _Kept(measure=measure_of(log, asks[0].metric), finished=[], first={})
    _make_folder(options.out)
    source = ReplaySource(
        entry=options.replay,
        arguments=(log,),
        options={
            "encoder": encoder,
            **({} if (model := _model(options, log, lane)) is None else {"model": model}),
            "cache": options.out.absolute() / "features",
            "threads": 1,
            **_configured(settings),
        },
    )
    outcome = Pool(source, jobs=options.jobs or physical_cores(), rows=log.rows).run(asks, kept.keep, show)
    if not kept.finished:
        return Result(backtest=None, outcome=outcome, files=[], untimed_why=log.untimed_why)
    backtest = _found(log, kept, prices, complete=not outcome.missing)
    files = _write(options, backtest, named, published)
    if options.answers is not None and backtest.recommendation is not None:
        write_answers(kept.first[backtest.recommendation.budget].answers, log, options.answers)
        files.append(options.answers)
    return Result(backtest=backtest, outcome=outcome, files=files, untimed_why=log.untimed_why)


def _check_answers(answers: Path, options: Options) -> None:
    """Refuse, before all runs, a file that could not be written after them. Nothing is opened, made or changed."""
    why = None
    try:
        path, out = answers.resolve(), options.out.resolve()
        coming = (out, *out.parents)  # folders that will be there
        if path == options.log.resolve():
            why = "that is the log itself"
        elif path.is_dir() or path in coming:
            why = "that is a folder"
        elif not path.parent.is_dir() and path.parent not in coming:
            why = "its folder is not there"
        elif not os.access(next(place for place in (path, *path.parents) if place.exists()), os.W_OK):
            why = "it cannot be written"
    except (OSError, RuntimeError) as error:
        why = str(error)
    if why is not None:
        message = f"--answers {answers}: {why}: name a file that can be written, in a folder that is there"
        raise SettingsError(message)


def _make_folder(out: Path) -> None:
    """Make the folder of the results, or refuse it before all runs."""
    why = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK | os.X_OK):
            why = "it cannot be written"
    except OSError as error:
        why = error.strerror
    if why is not None:
        message = f"--out {out}: {why}: name a folder that can be written, or be made"
        raise SettingsError(message)


def curve_budgets(rows: int, curve: Sequence[float]) -> list[int]:
    """Budgets at these shares of the rows, each rounded to two digits."""
    budgets = set()
    for ratio in curve:
        exact = ratio * rows
        digits = max(0, math.floor(math.log10(max(exact, 1.0))) - 1)
        budgets.add(max(1, round(exact / 10**digits) * 10**digits))
    return sorted(budgets)


def physical_cores() -> int:
    """Cores that we may use; two threads of one core are no faster than one."""
    allowed = len(psutil.Process().cpu_affinity() or [0])
    return max(1, min(allowed, psutil.cpu_count(logical=False) or 1))


def write_answers(answers: Answers, log: Log, path: Path) -> None:
    """One JSON line a row, in the order of the run.

    Raises:
        SettingsError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            for place, row in enumerate(answers.rows):
                file.write(json.dumps(_answer(answers, log, place, int(row)), ensure_ascii=False) + "\n")
    except OSError as error:
        message = f"--answers {path}: {error}"
        raise SettingsError(message) from error


def _answer(answers: Answers, log: Log, place: int, row: int) -> dict[str, str | float | None]:
    confidence = float(answers.confidence[place])
    student = "student" if answers.answer[place] else None
    return {
        "id": log.ids[row],
        "answer": answers.answer[place] or None,
        "by": "teacher" if answers.by_teacher[place] else student,
        "reason": answers.reason[place],
        "propensity": float(answers.propensity[place]),
        "confidence": None if math.isnan(confidence) else confidence,
        "version": answers.version[place] or None,
    }


def _lane(options: Options) -> tuple[Settings | None, LaneSection | None]:
    if options.settings is None:
        if options.lane is not None:
            message = "--lane: it needs --settings"
            raise SettingsError(message)
        return None, None
    settings = Settings.load(options.settings)
    return settings, Site(settings).lane(options.lane) if options.lane is not None else settings.lanes[0]


def _configured(settings: Settings | None) -> dict[str, Any]:
    """How the lane's trainer is set, as options of a replay; without settings it has its own."""
    if settings is None:
        return {}
    from ops.wiring.train import cycle_settings, schedule_settings  # noqa: PLC0415 - it imports the log's client and more

    return {"cycle": cycle_settings(settings), "schedule": schedule_settings(settings)}


def _asks(options: Options, log: Log, settings: Settings | None, lane: LaneSection | None) -> list[Ask]:
    promised = lane is not None and lane.policy == "promise"
    target = options.target if options.target is not None or not promised or lane is None else lane.promise.target
    metric = options.metric or (lane.metric if lane is not None else "accuracy")
    if target is not None and metric != "accuracy":
        message = f"--metric {metric}: a promise (--target) counts each question alike"
        raise SettingsError(message)
    for budget in options.budgets or ():
        if not 0 < budget <= log.rows:
            message = f"--budget {budget}: the log has {log.rows:,} rows, give 1 to {log.rows}"
            raise SettingsError(message)
    audit_ratio = options.audit_ratio
    if audit_ratio is None and (lane is not None or target is not None):
        audit_ratio = lane.audit_ratio if lane is not None else _AUDIT_RATIO
    confidence = options.confidence or (lane.promise.confidence if lane is not None else PromiseSection().confidence)
    return [
        Ask(
            budget=budget,
            seed=seed,
            shuffled=options.shuffle,
            target=target,
            confidence=confidence,
            metric=metric,
            audit_ratio=audit_ratio or 0.0,
            audit_reserve_ratio=lane.budget.audit_reserve_ratio if lane is not None else _AUDIT_RESERVE_RATIO,
            fine_tune=not options.no_fine_tune and (settings is None or settings.trainer.fine_tune),
        )
        for budget in sorted(set(options.budgets or curve_budgets(log.rows, LOGS[log.task].curve)))
        for seed in range(options.seeds or LOGS[log.task].seeds)
    ]


def _encoder(options: Options, settings: Settings | None) -> tuple[str, str]:
    """The encoder as it was named, and its folder."""
    if options.encoder is not None:
        named, by = options.encoder, "--encoder"
    else:
        named, by = MINILM if settings is None else str(settings.trainer.encoder), "trainer.encoder"
    return named, str(find_encoder(named, by))


def _model(options: Options, log: Log, lane: LaneSection | None) -> str | None:
    """The folder of the language model that a student of conversations grows on; None: the log has none."""
    if log.chat is None:
        return None
    own = lane.student.model if lane is not None else None
    named, by = (options.model, "--model") if options.model is not None else (own, "lanes.student.model")
    if named is None:
        message = "--model: a log of conversations needs the folder of a language model, which learns to answer"
        raise SettingsError(message)
    return str(find_decoder(named, by, kept=options.out.absolute() / "decoders"))


def _usd_per_call(lane: LaneSection | None, log: Log) -> float:
    """By the lane's prices, at four characters a token; 0 where nobody says."""
    if lane is None:
        return 0.0
    teacher = lane.teacher
    prompt = len(read_prompt(lane)) + sum(len(label) + 2 for label in lane.labels)
    asked = prompt + sum(map(len, log.texts)) / log.rows
    said = sum(map(len, log.label_set)) / max(1, len(log.label_set))
    return (asked * teacher.input_usd_per_mtok + said * teacher.output_usd_per_mtok) / _CHARS_PER_TOKEN / 1e6


def _found(log: Log, kept: _Kept, prices: BacktestPrices, *, complete: bool) -> Backtest:
    points = points_of(kept.finished, kept.measure, prices, log.days)
    steps = steps_of(kept.finished, kept.measure, prices, log.days)
    runs = [one.run for one in kept.finished]
    found = recommend(points, steps, runs, kept.measure, prices, log.days)
    topics = kept.first[found.budget].topics
    return assemble(log, kept.measure, prices, kept.finished, topics, found, complete=complete)


def _write(options: Options, backtest: Backtest, encoder: str, published: Sequence[PublishedScore]) -> list[Path]:
    """The files that are there after every backtest, and the settings where they are asked for."""
    files = [options.out / name for name in ("curve.png", "report.html", "backtest.json")]
    draw_figure(files[0], headline(backtest), charts(backtest, published))
    write_page(backtest, files[1], published)
    files[2].write_bytes(msgspec.json.format(msgspec.json.encode(backtest), indent=2) + b"\n")
    if options.write_settings and backtest.recommendation is not None:
        files.append(options.out / "settings.toml")
        files[-1].write_text(settings_toml(backtest, backtest.runs[0].ask, encoder, options.model), "utf-8")
    return files


def failures(outcome: PoolResult) -> Sequence[str]:
    """What went wrong and what is missing, a sentence each."""
    told = []
    for failure in outcome.failed:
        what = (
            "nothing could be run" if failure.ask is None else f"budget {failure.ask.budget}, seed {failure.ask.seed}"
        )
        told.append(f"{what}: {failure.why}")
    if outcome.missing:
        names = ", ".join(f"{ask.budget}/{ask.seed}" for ask in outcome.missing)
        told.append(f"missing (budget/seed), {len(outcome.missing)} of them: {names}")
    return told
