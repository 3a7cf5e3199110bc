"""The gateway's settings: frozen records that `ops` fills from the settings file, valid from birth."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from serve.teacher.ask.prompts import CHAT, TeacherKind, wrong_prompt
from serve.teacher.parameters import check_call, checked_key
from store.errors import SettingsError
from store.event import MIN_PROPENSITY, Lane, Task
from store.labels import AnswerFormat
from store.policy import METRICS, Metric, PolicyName
from store.tasks.tasks import LaneTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What all lanes of one gateway process share."""

    max_batch: int = 32  # questions in one forward pass
    max_batch_tokens: int = 16_384  # of these together, unless one has more
    batch_wait_s: float = 0.003  # how long a batch that is not full waits for the rest of its requests
    max_text_chars: int = 20_000
    max_message_chars: int = 200_000  # of a chat
    max_inputs: int = 256  # texts in one request
    max_documents: int = 1_000  # in one request, of a list to be ranked
    max_body_bytes: int = 4 << 20
    max_in_flight: int = 2_048  # questions being answered; more are refused with 429
    student_timeout_s: float = 5.0  # a forward pass that takes longer hangs: the student is down
    student_wait_s: float = 2.0  # a request that would wait longer for the others before it is refused with 429
    follow_s: float = 1.0  # between two looks at the moves, and between two heartbeats
    retry_s: float = 30.0  # before a version that failed to load is tried again; doubles, up to ten times this
    drain_s: float = 30.0  # how long a replaced version may finish its requests before it is let go
    memory_factor: float = 1.5  # memory that loading takes, as a multiple of the version's files
    memory_reserve_bytes: int = 256 << 20  # stays free after a load
    max_buffered_bytes: int = 64 << 20  # of all bodies that are coming in; over it the largest is refused with 503
    allowed_hosts: frozenset[str] = frozenset()  # names of this gateway, beside loopback's own and any address
    allowed_origins: frozenset[str] = frozenset()  # web pages whose requests are answered
    grace_s: float = 30.0  # for paid answers, audits, the publisher and the leases at shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """An OpenAI-compatible endpoint and all that shapes its answer."""

    base_url: str
    model: str
    prompt: str = ""  # the prompt file's text; a reranker has none
    kind: TeacherKind = CHAT
    parameters: Mapping[str, Any] = field(default_factory=dict)  # of the request's body, as the endpoint knows them
    answer_format: AnswerFormat = "text"
    api_key: str = field(default="none", repr=False)
    timeout_s: float = 30.0  # of one call with its retries; waiting for a turn may take as long again
    attempts: int = 2  # what never left, and a 429 or 503, is sent again; what may have been billed is not
    proxy: str | None = field(default=None, repr=False)  # http://host:port; the environment's proxies are not used
    concurrency: int = 16
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    search_usd: float = 0.0  # a reranker's search: a call, for each hundred documents of it
    window_documents: int = 50  # of a list that a chat model is to rank, shown at once
    breaker_failures: int = 5  # in a row, after which the teacher is left alone
    breaker_open_s: float = 10.0  # for how long, before one call may try again

    def __post_init__(self) -> None:
        """Check what would fail at the first question.

        Raises:
            SettingsError: something cannot be sent.
        """
        try:
            checked_key(self.api_key)
        except SettingsError as error:
            message = f"teacher.api_key: {error}"
            raise SettingsError(message) from error
        try:
            check_call(base_url=self.base_url, model=self.model, proxy=self.proxy, parameters=self.parameters)
        except SettingsError as error:
            message = f"teacher.{error}"
            raise SettingsError(message) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What the teacher may cost in any 24 hours."""

    calls_per_day: int
    usd_per_day: float | None = None  # None: no limit
    audit_reserve_ratio: float = 0.1  # share of either that escalations leave to audits


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """One lane at the gateway."""

    lane: Lane
    task: Task
    terms: LaneTerms  # what an answer may be, and what is called the same one
    training_permitted: bool
    teacher: TeacherSettings
    budget: BudgetSettings
    policy: PolicyName = "promise"
    metric: Metric = "accuracy"  # the other one needs policy "budget"
    rows_per_day: float | None = None  # forecast of all replicas' traffic, for policy "budget"; None: measured by each
    audit_ratio: float = 0.05
    audit_queue: int = 256  # audits that wait for the teacher; when full, none is drawn
    audit_workers: int = 4
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # none: open to loopback, closed to the network

    def __post_init__(self) -> None:
        """Check what a decision divides by.

        Raises:
            SettingsError: the prompt lacks a place-holder, or has one that nobody fills; the audit ratio is no
                probability, the forecast is no number of rows, or the metric is not one that the policy can serve.
        """
        if self.teacher.kind == CHAT and (wrong := wrong_prompt(self.teacher.prompt, self.task)) is not None:
            message = f"teacher.prompt_file: {wrong}"
            raise SettingsError(message)
        if self.audit_ratio != 0.0 and not MIN_PROPENSITY <= self.audit_ratio <= 1.0:
            message = f"lanes.audit_ratio: {self.audit_ratio} is neither 0 nor in [{MIN_PROPENSITY}, 1]"
            raise SettingsError(message)
        if self.rows_per_day is not None and not 0.0 < self.rows_per_day < inf:
            message = f"lanes.rows_per_day: {self.rows_per_day} is no number of questions"
            raise SettingsError(message)
        if self.metric not in METRICS[self.policy]:
            others = " or ".join(f'"{name}"' for name, metrics in METRICS.items() if self.metric in metrics)
            message = f"lanes.metric: {self.metric} needs policy = {others}; lane {self.lane} keeps a {self.policy}"
            raise SettingsError(message)


def is_loopback(host: str | None) -> bool:
    """Whether a peer is this machine; a Unix socket has no host."""
    if host is None:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
