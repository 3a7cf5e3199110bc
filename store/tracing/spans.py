"""The span that work belongs to, as a protocol, and the W3C trace context that goes from client to teacher and log.

Whoever works asks `span(...)` for a child of the span it is in, and never knows whether spans are made at all: where
tracing is off, a client's own context is passed on, and nothing else is done. A span holds no texts: models, counts,
times, names and ids alone.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Value = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Value | None]  # what is None is not said

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_FIRST_VERSION: Final = "00-"
_PARENT_CHARACTERS: Final = 55
_MOST_STATE: Final = 512  # characters, as W3C wants them to be passed on at least
_STATE: Final = re.compile(r"[ -~\t]*")
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A W3C trace context, well formed."""

    traceparent: str
    tracestate: str = ""

    @property
    def sampled(self) -> bool:
        """Whether whoever began the trace keeps it."""
        return bool(int(self.traceparent[53:55], 16) & _SAMPLED)

    @property
    def headers(self) -> dict[str, str]:
        """As a request carries it."""
        state = {"tracestate": self.tracestate} if self.tracestate else {}
        return {"traceparent": self.traceparent, **state}


def context_of(traceparent: str | None, tracestate: str | None = None) -> Context | None:
    """The context in two headers; None where there is none, or it is malformed, which W3C wants ignored."""
    if traceparent is None or _PARENT.fullmatch(traceparent) is None:
        return None
    if len(traceparent) > _PARENT_CHARACTERS and traceparent.startswith(_FIRST_VERSION):
        return None  # later versions may say more; this one does not
    state = (tracestate or "").strip()
    known = len(state) <= _MOST_STATE and _STATE.fullmatch(state) is not None
    return Context(traceparent=traceparent[:_PARENT_CHARACTERS], tracestate=state if known else "")


class Span(Protocol):
    """One piece of work."""

    @property
    def context(self) -> Context | None:
        """What is passed on to whoever is asked next; None: nobody traces."""

    @property
    def recording(self) -> bool:
        """Whether anything that is noted is kept."""

    def note(self, attributes: Attributes) -> None:
        """Say more of it."""

    def fail(self, error_type: str) -> None:
        """It came to nothing, for a reason of few values; the first that is said stays."""

    def child(self, name: str, kind: Kind, attributes: Attributes) -> AbstractContextManager["Span"]:
        """A span within this one."""


class Tracer(Protocol):
    """Begins traces, or goes on with a client's."""

    @property
    def recording(self) -> bool:
        """Whether spans are made."""

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, parent: Context | None
    ) -> AbstractContextManager[Span]:
        """The first span of this process in a trace."""

    def record(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        start_s: float,
        end_s: float,
        links: Sequence[Context] = (),
        error_type: str | None = None,
    ) -> None:
        """A span of what is over (Unix seconds), in a trace of its own, linked with what brought it about."""


@dataclass(frozen=True, slots=True)
class Passing:
    """Satisfies `Span`, and makes none: what came is passed on."""

    context: Context | None = None
    recording: bool = False

    def note(self, attributes: Attributes) -> None:
        """Nobody keeps it."""

    def fail(self, error_type: str) -> None:
        """Nobody keeps it."""

    def child(self, name: str, kind: Kind, attributes: Attributes) -> AbstractContextManager["Span"]:  # noqa: ARG002 - as the protocol has it
        """The same."""
        return nullcontext(self)


@dataclass(frozen=True, slots=True)
class Untraced:
    """Satisfies `Tracer`, and makes no spans."""

    recording: bool = False

    def begin(
        self,
        name: str,  # noqa: ARG002 - as the protocol has it
        kind: Kind,  # noqa: ARG002
        attributes: Attributes,  # noqa: ARG002
        parent: Context | None,
    ) -> AbstractContextManager[Span]:
        """What passes the client's context on."""
        return nullcontext(Passing(parent))

    def record(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        start_s: float,
        end_s: float,
        links: Sequence[Context] = (),
        error_type: str | None = None,
    ) -> None:
        """Nobody keeps it."""


OFF: Final = Untraced()
_NOWHERE: Final = Passing()
_HERE: Final[ContextVar[Span]] = ContextVar("span", default=_NOWHERE)
_ABOUT: Final[ContextVar[Attributes]] = ContextVar("about", default={})  # noqa: B039 - a mapping that nobody changes


def here() -> Span:
    """The span that the caller's work belongs to."""
    return _HERE.get()


@contextmanager
def within(one: Span, about: Attributes | None = None) -> Iterator[Span]:
    """Work belongs to this span while the block runs; spans within it say what it is `about`, too."""
    token = _HERE.set(one)
    told = None if about is None or not one.recording else _ABOUT.set({**_ABOUT.get(), **about})
    try:
        yield one
    except BaseException as error:
        one.fail(type(error).__name__)  # and nothing of its message, which may quote
        raise
    finally:
        if told is not None:
            _ABOUT.reset(told)
        _HERE.reset(token)


@contextmanager
def span(name: str, kind: Kind, attributes: Attributes) -> Iterator[Span]:
    """A child of the span that the caller's work belongs to; work within the block belongs to it."""
    parent = here()
    if not parent.recording:
        yield parent
        return
    with parent.child(name, kind, {**_ABOUT.get(), **attributes}) as made, within(made):
        yield made


@contextmanager
def about(attributes: Attributes) -> Iterator[None]:
    """What the spans within the block say beside their own."""
    with within(here(), attributes):
        yield


def carried(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Work that belongs to the span of now, whoever does it later."""
    one, told = here(), _ABOUT.get()

    async def run() -> None:
        with within(one, told):
            await work()

    return run
