"""Which commands there are, and where each is: a module is imported once one of its commands is meant.

The one line that the list of commands shows stands here, too, because a list must not import them all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a command, or a group of them, is defined."""

    module: str
    help: str  # the first line of its own
    group: str | None = None  # what its Typer is called in the module; None: it is a command of `app` there

    def load(self, name: str) -> Any:
        """The command itself."""
        found: Any = typer.main.get_group(getattr(import_module(self.module), self.group or "app"))
        command = found if self.group else found.commands[name]
        command.name = name
        return command

    def stub(self, name: str) -> TyperCommand:
        """What a list of commands needs to know of it."""
        return TyperCommand(name, help=self.help)


COMMANDS: Final[dict[str, Place]] = {
    "init": Place(module="ops.cli.start.begin", help="Write a commented settings file, the keys and the data secret."),
    "status": Place(
        module="ops.cli.lane.looking",
        help="Show where every lane stands, and what it spent and saved; what cannot be read is left out, and named.",
    ),
    "history": Place(
        module="ops.cli.lane.looking", help="List the moves of a lane, its versions, and what became of its cycles."
    ),
    "show": Place(
        module="ops.cli.lane.looking",
        help="Verify a version and show what it says of itself: policy, verdict, topics with size, escalated share,"
        " conflicts.",
    ),
    "trace": Place(
        module="ops.cli.lane.trace",
        help="Tell one request's life: how it was decided, its event in the log, its item, and the versions that"
        " learned.",
    ),
    "promote": Place(
        module="ops.cli.lane.moving",
        help="Make a version the champion, whatever the gate said; waits up to 5 s for the live gateways.",
    ),
    "rollback": Place(
        module="ops.cli.lane.moving",
        help="Go back to a version and pin it; waits up to 5 s for the live gateways. Works with Redis and Kafka down.",
    ),
    "pause": Place(module="ops.cli.lane.moving", help="Run no cycles until `understudy resume`."),
    "resume": Place(module="ops.cli.lane.moving", help="Unpin the champion and run cycles again."),
    "report": Place(
        module="ops.cli.lane.report",
        help="Make the page that is read each week: money, quality, what was learned, what stayed hard, what is to"
        " come.",
    ),
    "doctor": Place(
        module="ops.cli.mending.doctor",
        help="Find what is wrong with an installation, from its settings to its disk, and say why and what mends it.",
    ),
    "verify": Place(
        module="ops.cli.data",
        help="Recompute the buffer from the log with a second program; check every move, signature and file.",
    ),
    "backup": Place(
        module="ops.cli.start.backup",
        help="Write all that cannot be made again into one signed file, while everything is at work.",
    ),
    "restore": Place(
        module="ops.cli.start.backup",
        help="Make an installation again from a backup, on an empty machine, and verify it.",
    ),
    "import": Place(
        module="ops.cli.data",
        help="Make a first student from a log that you already have: publish its rows, then ask for a cycle.",
    ),
    "backtest": Place(
        module="ops.cli.backtest",
        help="Replay a log through the service's own parts, and say what they would have saved and at what quality.",
    ),
    "proxy-log": Place(
        module="ops.cli.start.proxy",
        help="Stand in front of a teacher, pass everything on, and record what it is asked and answers.",
    ),
    "catalogue": Place(
        module="ops.cli.catalogue",
        group="catalogue",
        help="Catalogues: documents of a ranking lane, embedded before anybody asks.",
    ),
    "run": Place(module="ops.cli.run", group="app", help="Run a process until it is stopped."),
    "cycle": Place(module="ops.cli.lane.cycles", group="cycle", help="Ask for a cycle."),
    "lag": Place(
        module="ops.cli.data",
        help="Say how far ingest is behind, partition by partition. One that lags alone has a hot key, or stands"
        " still.",
    ),
    "producers": Place(
        module="ops.cli.data",
        help="Say what another producer's events must name: the topic, and the lane's present model, prompt version and"
        " labels.",
    ),
    "dlq": Place(module="ops.cli.letters", group="dlq", help="Dead letters: records that will never become items."),
    "keys": Place(
        module="ops.cli.access.keys", group="keys", help="Keys: who may publish versions and move the champion."
    ),
    "tokens": Place(
        module="ops.cli.access.tokens",
        group="tokens",
        help="Tokens of the console: who may see texts there, and who may move lanes.",
    ),
    "labels": Place(
        module="ops.cli.answers.labels",
        group="labels",
        help="Labels of a lane: after the list was edited, how are older answers read?",
    ),
    "answers": Place(
        module="ops.cli.answers.by_hand",
        group="answers",
        help="Answers to single questions: correct them, or learn from them no more.",
    ),
    "prompt": Place(
        module="ops.cli.answers.prompt",
        group="prompt",
        help="Prompts of a lane: an edited prompt makes older answers stale.",
    ),
    "ingest": Place(
        module="ops.cli.mending.ingest", group="ingest", help="Ingest: escalations from the log into the buffer."
    ),
    "buffer": Place(module="ops.cli.kept.buffer", group="buffer", help="The replay buffer: what is kept of the log."),
}


class _Loaded(Mapping[str, Any]):
    """The commands by name; one that is asked for is imported, and a list of the names imports none."""

    def __getitem__(self, name: str) -> Any:
        return COMMANDS[name].load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class LateCommands(TyperGroup):
    """A group whose commands are imported when one is meant; showing and completing their names imports none."""

    def __init__(self, **attrs: Any) -> None:
        """As typer makes a group."""
        super().__init__(**attrs)
        self.commands = cast("Any", _Loaded())

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, in the order in which they are shown."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What a list shows of a command."""
        del ctx
        return COMMANDS[cmd_name].stub(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant, and what is left for it."""
        name, command, rest = super().resolve_command(ctx, args)
        meant = None if command is None else str(command.name)
        return name, None if meant is None else COMMANDS[meant].load(meant), rest
