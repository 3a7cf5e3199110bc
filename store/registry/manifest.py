"""What a version is: `manifest.json`, canonical JSON, written last and signed.

A version is an immutable folder named by the hash of its manifest, which holds the sha256 of every other file.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from store.event import Lane, Task
from store.policy import Policy
from store.registry.students.records import StudentRecord

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "manifest.sig"
VERDICTS_NAME: Final = "verdicts.json"  # what a referee said of its answers, and of those it was compared with
SNAPSHOT_NAME: Final = "snapshot.json"  # which rows it was made from, in versions that were made here
_BESIDE: Final = frozenset({SNAPSHOT_NAME, VERDICTS_NAME})
VERSION_ID_HEX_DIGITS: Final = 16

Outcome = Literal["pass", "fail", "inconclusive", "held"]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a version."""

    sha256: Sha256
    size_bytes: int


class SliceResult(msgspec.Struct, frozen=True, kw_only=True):
    """One paired comparison of challenger and champion (or anchor)."""

    name: str
    kind: Literal["retained", "hard", "blocking", "watch", "anchor"]
    rows: int
    champion_agreement: float
    challenger_agreement: float
    difference: float  # challenger minus champion, weighted
    lower: float
    upper: float
    delta: float
    refused: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The gate's answer with every number that led to it."""

    outcome: Outcome
    phase: Literal["first", "growth", "strict"]
    refusals: list[str]  # every reason, for a person
    rows_judged: int
    student_agreement: float | None  # the challenger's, on the judged rows, weighted to all traffic
    difference: float | None  # None when there was no champion
    lower: float | None
    upper: float | None
    delta: float
    rows_needed: int  # judged rows that a decision would have taken; 0 when there were enough
    slices: list[SliceResult]
    unjudged: int = 0  # pairs of answers that no rule compares and no referee judged: they count as different

    @property
    def notes(self) -> list[str]:
        """What a person should know of it beside the refusals."""
        if not self.unjudged:
            return []
        told = f"{self.unjudged} pairs of texts were judged by nobody and count as different"
        return [f"{told}: see lanes.chat.referee and lanes.budget"]


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of the snapshot, named by its most telling words."""

    name: str
    items: int
    requests: float  # estimated requests: the sum of 1/propensity
    escalated_ratio: float  # of these requests, the share that the student did not keep
    conflicts: int = 0  # items whose near neighbours ask the same and were answered otherwise


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The frozen rows a version was made from; the ids themselves are in `snapshot.json`."""

    sha256: Sha256  # of snapshot.json
    rows: int
    train: int
    calibrate: int
    judge: int
    clusters: int
    contrasts: int  # linked pairs whose answers differ
    moved_linked: int  # rows whose split is not their own hash's, but that of the row they are linked to
    prompt_version: str
    positions: dict[str, str]  # "topic uuid/partition" -> position up to which the log had been applied


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The encoder a student starts from."""

    name: str
    sha256: Sha256  # of its weights file
    parameters: int


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True):
    """redact, truncate, tokenise: trainer and gateway run the same function with these values."""

    redacted: bool
    max_tokens: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename={"schema_version": "schema"}):
    """Everything a version says of itself; `store.registry.students.earlier` brings older ones into this shape."""

    schema_version: Literal[2] = 2
    lane: Lane
    kind: Literal["head", "fine_tune", "candidate"]
    parent: str | None  # the champion it was trained beside
    created_s: float
    code_version: str
    seed: int
    base: BaseModel
    served_parameters: int  # distinct parameters in service
    preprocessing: Preprocessing
    student: StudentRecord
    snapshot: SnapshotRecord | None  # None for a candidate that was made elsewhere
    verdict: Verdict | None  # None for a candidate that has not been judged
    policy: Policy | None
    topics: list[Topic]
    files: dict[str, FileEntry]  # path inside the version -> hash; manifest and signature excepted

    @property
    def task(self) -> Task:
        """The task that the student does."""
        return self.student.task


def answers_key(manifest: Manifest, sha256: Mapping[str, str]) -> str:
    """What a version answers, and which answers it trusts, follows from this: equal keys, equal answers.

    Args:
        manifest: of the version.
        sha256: of its files by name; snapshot and verdicts, which nobody answers from, are left out.
    """
    policy = manifest.policy
    parts = {
        "files": {name: digest for name, digest in sha256.items() if name not in _BESIDE},
        "preprocessing": manifest.preprocessing,
        "student": manifest.student.answers_from,
        "policy": None if policy is None else [*_trusts(policy)],
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _trusts(policy: Policy) -> Iterator[Any]:
    """What of a policy decides which answers are trusted."""
    yield from (policy.temperature, policy.threshold, policy.novelty_threshold)
    yield from ([moment, found.threshold] for moment, found in sorted(policy.early.items()))


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no white space: equal values have equal bytes."""
    return msgspec.json.encode(msgspec.to_builtins(value), order="sorted")


def version_id(manifest: bytes) -> str:
    """The first 16 hex digits of the manifest's sha256."""
    return hashlib.sha256(manifest).hexdigest()[:VERSION_ID_HEX_DIGITS]
