"""The escalation event, version 1: one request, the teacher's answer, and why the student did not keep it.

One JSON object in UTF-8 per log record. Decoding never raises: a record is an `Escalation`, an `Undecodable`, or of an
`UnknownTask`, which a newer release reads.
"""

import codecs
import re
import time
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from random import Random
from typing import Annotated, Any, ClassVar, Final, Literal, cast, get_args

import msgspec

SCHEMA_VERSION: Final = 1
MAX_EVENT_BYTES: Final = 1 << 20
MAX_AHEAD_S: Final = 86_400.0  # an event dated further ahead of the log's own time would wait in quarantine until then
MAX_DOCUMENTS: Final = 1000  # of one list to rank
MIN_PROPENSITY: Final = (
    1e-6  # rows weigh 1/propensity: one record must not be able to outweigh, or overflow, all others
)

Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Propensity = Annotated[float, msgspec.Meta(ge=MIN_PROPENSITY, le=1.0)]
EventId = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[57][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
Task = Literal["classify", "rank", "chat"]
Reason = Literal[
    "cold",
    "low_confidence",
    "novel",
    "audit",
    "bought",
    "budget_margin",
    "forced",
    "too_long",
    "unsupported",
    "student_down",
]


class Lane(msgspec.Struct, frozen=True, order=True):
    """(tenant, use case): its own buffer, split, budget, promise, gate, champion and history."""

    tenant: Slug
    use_case: Slug

    def __str__(self) -> str:
        """`tenant/use_case`, the form the CLI takes and prints."""
        return f"{self.tenant}/{self.use_case}"


class TextInput(msgspec.Struct, frozen=True, kw_only=True):
    """The input of `classify`."""

    text: str


class RankInput(msgspec.Struct, frozen=True, kw_only=True):
    """The input of `rank`: the documents are in the order in which they were offered."""

    query: str
    documents: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_DOCUMENTS)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a chat, as OpenAI's API has it.

    A content that is more than text stands here as JSON, with each part that is no text as its kind and digest.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The input of `chat`.

    `shape` holds, as they were sent, the parameters that decide what an answer may be: `tools` or `response_format`,
    say. It is a part of the question; how an answer is drawn (temperature, seed) or sent (stream) is not.
    """

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    shape: dict[str, Any] = {}


TaskInput = TextInput | RankInput | ChatInput


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the teacher's endpoint counted them."""

    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    completion_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0


class TeacherAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who answered and what it cost; the signal's fields are in the subclass of each task."""

    model: str
    prompt_version: str
    usage: Usage = Usage()
    cost_usd: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    latency_ms: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class LabelAnswer(TeacherAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """A teacher's answer to `classify`."""

    label: Annotated[str, msgspec.Meta(min_length=1)]
    probs: dict[str, Probability] | None = None


class RankAnswer(TeacherAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """A teacher's answer to `rank`: a score for each document, or an order of document indexes, best first.

    Exactly one of the two. An order may name a part of the documents, each once at most.
    """

    scores: list[float] | None = None
    order: list[int] | None = None


class TopLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """The k likeliest tokens at each of n places of an answer, the chosen one first: `store.answers.top_logprobs`.

    A place of 20 takes 160 bytes of JSON so, and 2,656 in OpenAI's shape.
    """

    tokenizer: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]  # sha256 of the tokenizer.json that numbers them
    k: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    ids: bytes  # [n, k] little-endian uint32; base64 in JSON
    logprobs: bytes  # [n, k] little-endian float16, natural logarithms; base64 in JSON


class ChatAnswer(TeacherAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """A teacher's answer to `chat`; `logprobs` has OpenAI's shape, `top` holds them packed."""

    text: str
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    logprobs: list[dict[str, Any]] | None = None
    top: TopLogprobs | None = None


class AgreementVerdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a referee said of a student's output and the teacher's answer, where no rule tells; nobody asks it twice."""

    agreed: bool
    by: Literal["distance", "judge"]
    consistent: bool = True  # a judge said the same whichever answer stood first; else it counts as no agreement
    model: str = ""  # that judged
    calls: Annotated[int, msgspec.Meta(ge=0)] = 0
    cost_usd: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class StudentOpinion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the student would have said, from before the teacher's answer was known.

    `members` holds each member's own output; the first is the frozen head's and the second, where there is one, the
    fine-tuned encoder's. For `classify`, `output` is a label and members are label probabilities in the version's label
    order; for `rank`, `output` is a JSON list of document indexes, best first, and members are scores of the documents;
    for `chat`, `output` is its text, and the one member are the signals that its confidence follows from.
    """

    version: str
    output: str
    confidence: Probability
    members: list[list[float]] = []
    logits: list[float] | None = None
    verdict: AgreementVerdict | None = None


class EscalationCause(msgspec.Struct, frozen=True, kw_only=True):
    """Why this request went to the teacher, and with which probability requests like it do."""

    reason: Reason
    threshold: float | None
    propensity: Propensity


class EscalationBase(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="task",
    omit_defaults=False,
    rename={"schema_version": "schema"},
):
    """The fields that every task's event has."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: Annotated[
        str, msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[57][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
    ]
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    use_case: Slug
    tenant: Slug
    student: StudentOpinion | None
    escalation: EscalationCause
    subject: str | None = None
    eligible: bool = True

    @property
    def lane(self) -> Lane:
        """The lane the event belongs to."""
        return Lane(self.tenant, self.use_case)

    @property
    def time_s(self) -> float:
        """Event time, Unix seconds."""
        return self.time.timestamp()

    @property
    def task(self) -> Task:
        """The task whose event this is."""
        return cast("Task", self.__struct_config__.tag)


class ClassifyEscalation(EscalationBase, frozen=True, kw_only=True, tag="classify"):
    """An escalation of `classify`."""

    input: TextInput
    teacher: LabelAnswer


class RankEscalation(EscalationBase, frozen=True, kw_only=True, tag="rank"):
    """An escalation of `rank`."""

    input: RankInput
    teacher: RankAnswer


class ChatEscalation(EscalationBase, frozen=True, kw_only=True, tag="chat"):
    """An escalation of `chat`."""

    input: ChatInput
    teacher: ChatAnswer


Escalation = ClassifyEscalation | RankEscalation | ChatEscalation

INPUTS: Final[Mapping[Task, type[TaskInput]]] = {"classify": TextInput, "rank": RankInput, "chat": ChatInput}

DeadReason = Literal[
    "undecodable",
    "unknown_schema",
    "oversized",
    "wrong_shape",
    "too_old",
    "in_future",
    "unknown_lane",
    "wrong_use_case",
    "unredactable",
    "off_list",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecodable:
    """A record that will never become an item, with the reason its dead letter carries."""

    reason: DeadReason
    detail: str  # for a person; holds no input text


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownTask:
    """A well-formed event of a task that this release does not keep: not broken, but for a newer release to read."""

    task: str
    use_case: str

    buried_as: ClassVar[DeadReason] = "wrong_shape"
    """How releases that did not wait for an upgrade counted such a record among their dead letters."""

    @property
    def detail(self) -> str:
        """What it is and what to do, for a person; holds no input text."""
        return f"an event of task {self.task!r}, which this release does not keep: upgrade ingest, and it goes on"


class _Envelope(msgspec.Struct, rename={"schema_version": "schema"}):
    """What tells an event of a task to come from garbage: the fields that every release's events are told apart by.

    A task's name is a word, so that what is said of it aloud cannot be a number that somebody has sent.
    """

    schema_version: Annotated[int, msgspec.Meta(ge=SCHEMA_VERSION)]
    task: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z_-]{0,31}[0-9]{0,2}$")]
    id: EventId
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    use_case: Slug
    tenant: Slug


class _SchemaOnly(msgspec.Struct, rename={"schema_version": "schema"}):
    schema_version: Any = None


class _TenantOnly(msgspec.Struct):
    tenant: str


_decoder: Final[msgspec.json.Decoder[Escalation]] = msgspec.json.Decoder(Escalation)
_QUOTED_VALUE: Final = re.compile(r"value ['\"].*['\"]", re.DOTALL)  # Invalid enum value 'what was sent' - at `$.field`
_SHOWN_SCHEMAS: Final = 1000  # a number past it is no version, and may be anything
_schema_decoder: Final = msgspec.json.Decoder(_SchemaOnly)
_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)
_tenant_decoder: Final = msgspec.json.Decoder(_TenantOnly)
_encoder: Final = msgspec.json.Encoder()


def encode(event: Escalation) -> bytes:
    """The event as one JSON object, UTF-8."""
    return _encoder.encode(event)


def decode(value: bytes, *, max_bytes: int = MAX_EVENT_BYTES) -> Escalation | Undecodable | UnknownTask:
    """Decode and validate one record's value. Never raises: bad input is data."""
    if len(value) > max_bytes:
        return Undecodable(reason="oversized", detail=f"{len(value)} bytes, {max_bytes} allowed")
    try:
        return _decoder.decode(value)
    except msgspec.ValidationError as error:
        return _of_a_task_to_come(value) or _invalid(value, without_values(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Undecodable(reason="undecodable", detail=_seems(value))


def _seems(value: bytes) -> str:
    """What a record looks like that is not JSON in UTF-8."""
    if not value:
        return "empty: a tombstone, or a producer that sent nothing"
    if value.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or value[:2] in {b"{\0", b"\0{"}:
        return "not JSON in UTF-8: it looks like UTF-16"
    if value.startswith(codecs.BOM_UTF8):
        return "not JSON in UTF-8: it begins with a byte order mark"
    if value.startswith(b"\0"):
        return "not JSON in UTF-8: it begins as a schema registry frames records (Avro, Protobuf, JSON Schema)"
    return "not JSON in UTF-8"


def _of_a_task_to_come(value: bytes) -> UnknownTask | None:
    """The event of a task that this release has never heard of, in a schema as old as ours or newer."""
    try:
        found = _envelope_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return None if found.task in get_args(Task) else UnknownTask(task=found.task, use_case=found.use_case)


def tenant_named(value: bytes) -> str | None:
    """The tenant that a record names, valid or not; None where that cannot be read. It may be anything."""
    if len(value) > MAX_EVENT_BYTES:
        return None
    try:
        return _tenant_decoder.decode(value).tenant
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _invalid(value: bytes, detail: str) -> Undecodable:
    """Tell a schema of the future from a wrong shape."""
    try:
        version = _schema_decoder.decode(value).schema_version
    except msgspec.MsgspecError:
        return Undecodable(reason="undecodable", detail="not a JSON object")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        shown = version if isinstance(version, int) and version in range(_SHOWN_SCHEMAS) else "not shown"
        return Undecodable(reason="unknown_schema", detail=f"schema {shown}, this release reads {SCHEMA_VERSION}")
    return Undecodable(reason="wrong_shape", detail=detail)


def without_values(error: msgspec.ValidationError) -> str:
    """What is wrong and where, as msgspec has it, and nothing of the value itself."""
    return _QUOTED_VALUE.sub("value", str(error))


def json_schema() -> dict[str, Any]:
    """The event's JSON Schema (2020-12), generated from the types above."""
    return msgspec.json.schema(Escalation)


MANY_MARKS: Final = re.compile(r"[^\w\s\x00-\x7f]{32,}")  # every combining mark is one of these; so are others


def canonical_text(text: str) -> str:
    """NFC with white space collapsed and trimmed: no case folding and no punctuation stripping."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", MANY_MARKS.sub(_in_order, text))
    return " ".join(text.split())


def _in_order(marks: re.Match[str]) -> str:
    """The same marks, taken apart and in canonical order: `normalize` sorts by insertion, in quadratic time."""
    apart = "".join(map(_taken_apart, marks.group()))
    runs = groupby(apart, key=lambda char: unicodedata.combining(char) > 0)
    return "".join(
        char for combine, run in runs for char in (sorted(run, key=unicodedata.combining) if combine else run)
    )


def _taken_apart(char: str) -> str:
    return unicodedata.normalize("NFD", char)


def canonical_layout(text: str) -> str:
    """NFC with one form of line ends; blanks that no reader sees go: at the ends of lines, and blank lines around it.

    What stands between words and before them stays: two programs that differ in indentation are two programs.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", MANY_MARKS.sub(_in_order, text))
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return "\n".join(lines).strip("\n")


def canonical_input(task: Task, parts: Sequence[Any]) -> bytes:
    """The whole input in canonical form, as bytes that are equal iff two questions are the same question."""
    return _encoder.encode([task, list(parts)])


def new_event_id(now_s: float, rng: Random) -> str:
    """A UUIDv7 (RFC 9562): Unix milliseconds, then 74 random bits."""
    value = (int(now_s * 1000) & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | rng.getrandbits(12) << 64 | 0b10 << 62 | rng.getrandbits(62)
    return str(uuid.UUID(int=value))


_EVENT_NAMESPACE: Final = uuid.UUID("6f0dcb9c-2f0f-5f5e-9a53-7b0f4f1f4a11")


def event_id_of_key(lane: Lane, idempotency_key: str, item_id: str) -> str:
    """A UUIDv5 of (lane, `Idempotency-Key`, item): a question that is sent twice is counted once.

    The item is part of it because a key that is used again after its day is another question's.
    """
    return str(uuid.uuid5(_EVENT_NAMESPACE, f"{lane}\x1f{idempotency_key}\x1f{item_id}"))


def utc(now_s: float) -> datetime:
    """Unix seconds as an aware UTC time."""
    return datetime.fromtimestamp(now_s, UTC)


def wall_clock_s() -> float:
    """Unix seconds. The one place that reads the wall clock; everything else takes `now_s`."""
    return time.time()  # noqa: TID251 - this is the one place
