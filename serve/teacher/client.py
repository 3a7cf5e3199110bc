"""The teacher: any OpenAI-compatible endpoint, with a prompt, a parser, a circuit breaker and a concurrency cap."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Annotated, Any, Final

import msgspec
import openai
import stamina
import structlog

from serve.settings import TeacherSettings
from store.errors import AnswerFault, InvalidAnswerError
from store.event import LabelAnswer, Usage
from store.labels import AnswerFormat, parse_label
from store.registry.manifest import canonical_json

_log: Final = structlog.get_logger(__name__)
_PROMPT_VERSION_HEX_DIGITS: Final = 16
_ASSUMED_COMPLETION_TOKENS: Final = 1_024  # where the parameters set no limit
_ENVELOPE_TOKENS: Final = 32  # roles and separators around the prompt
_OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_MTOK: Final = 1_000_000
_THIS_REQUEST: Final = (openai.BadRequestError, openai.UnprocessableEntityError)  # a filter, a context that is too long
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message


class _Used(msgspec.Struct, frozen=True):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens


class _Completion(msgspec.Struct, frozen=True):
    """What of a chat completion is read; openai's own types are filled in without being checked."""

    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: msgspec.Raw = msgspec.Raw(b"null")  # read apart: an answer is good whatever its endpoint counts

    def used(self) -> _Used | None:
        try:
            return msgspec.json.decode(self.usage, type=_Used | None)
        except msgspec.ValidationError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A label of the lane's list."""

    answer: LabelAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """Paid for, and of no use."""

    detail: str  # for a log; does not quote the answer
    kind: AnswerFault = "off_list"
    said: str = field(default="", repr=False)  # the answer as it came: not redacted
    cost_usd: float
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """No answer."""

    detail: str
    billed: bool  # the call may have been billed all the same: it timed out after it was sent


Reply = Answered | Invalid | Unavailable


def prompt_version(
    *, model: str, prompt: str, parameters: Mapping[str, Any], labels: Sequence[str], answer_format: AnswerFormat
) -> str:
    """The hash of all that shapes a teacher's answer; answers of another prompt version are stale.

    The endpoint's address is not part of it: moving a model to another host makes no answer stale.
    """
    shape = {
        "model": model,
        "prompt": prompt,
        "parameters": dict(parameters),
        "labels": list(labels),
        "answer_format": answer_format,
    }
    return hashlib.sha256(canonical_json(shape)).hexdigest()[:_PROMPT_VERSION_HEX_DIGITS]


class Breaker:
    """Leaves a failing teacher alone: opens after failures in a row, then lets one call try again."""

    def __init__(self, *, failures: int, open_s: float) -> None:
        """Start closed."""
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._retry_at_s: float | None = None  # None: closed

    def is_open(self, now_s: float) -> bool:
        """Whether calls are refused (monotonic seconds)."""
        return self._retry_at_s is not None and now_s < self._retry_at_s

    def admit(self, now_s: float) -> bool:
        """May this call go out? In an open circuit one may, once `open_s` have passed, and the next waits as long."""
        if self.is_open(now_s):
            return False
        if self._retry_at_s is not None:
            self._retry_at_s = now_s + self._open_s
        return True

    def succeeded(self) -> None:
        """The teacher answered, usefully or not: close."""
        self._failures = 0
        self._retry_at_s = None

    def failed(self, now_s: float) -> None:
        """It did not: open after enough failures in a row."""
        self._failures += 1
        if self._failures >= self._limit:
            self._retry_at_s = now_s + self._open_s


class Teacher:
    """Asks one lane's teacher for a label."""

    def __init__(
        self,
        settings: TeacherSettings,
        labels: Sequence[str],
        *,
        monotonic: Callable[[], float],
        client: openai.AsyncOpenAI | None = None,
    ) -> None:
        """Prepare the client; nothing is sent.

        Args:
            settings: the endpoint.
            labels: the lane's list.
            monotonic: seconds, for latency and the breaker.
            client: instead of one made from the settings; our own retries replace the client's.
        """
        self._settings = settings
        self._labels = tuple(labels)
        self._monotonic = monotonic
        self._template = Template(settings.prompt)
        self._client = client or openai.AsyncOpenAI(
            base_url=settings.base_url, api_key=settings.api_key, timeout=settings.timeout_s, max_retries=0
        )
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._breaker = Breaker(failures=settings.breaker_failures, open_s=settings.breaker_open_s)
        self.prompt_version = prompt_version(
            model=settings.model,
            prompt=settings.prompt,
            parameters=settings.parameters,
            labels=labels,
            answer_format=settings.answer_format,
        )

    @property
    def available(self) -> bool:
        """Whether a call would be sent now."""
        return not self._breaker.is_open(self._monotonic())

    def cost_bound_usd(self, text: str) -> float:
        """What a call can cost at most: a byte is at least a token, and the answer is as long as it may be."""
        limits = (self._settings.parameters.get(name) for name in _OUTPUT_LIMITS)
        output = next((int(limit) for limit in limits if limit is not None), _ASSUMED_COMPLETION_TOKENS)
        return self._price(len(self._prompt(text).encode()) + _ENVELOPE_TOKENS, output)

    async def ask(self, text: str) -> Reply:
        """The teacher's reply to one text. Raises nothing: each kind of failure is a reply.

        The text is sent as the client sent it, not redacted: the teacher is the processor that the user configured.
        """
        if not self._breaker.admit(self._monotonic()):
            return Unavailable(detail="the circuit is open", billed=False)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            return Unavailable(detail="no turn within the time-out: raise teacher.concurrency", billed=False)
        started = self._monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):  # the client's own bounds each read, not the whole
                completion = await self._complete(self._prompt(text))
        except _THIS_REQUEST as error:
            self._breaker.succeeded()  # it speaks: no client's text may close the teacher to everybody else
            _log.warning("the teacher refused a request", error=type(error).__name__)
            return Unavailable(detail=type(error).__name__, billed=False)
        except (openai.OpenAIError, TimeoutError, msgspec.MsgspecError, RecursionError) as error:
            self._breaker.failed(self._monotonic())
            _log.warning("the teacher did not answer", error=type(error).__name__)
            surely_not = isinstance(error, openai.OpenAIError) and not isinstance(error, openai.APITimeoutError)
            return Unavailable(detail=type(error).__name__, billed=not surely_not)
        finally:
            self._turns.release()
        self._breaker.succeeded()
        return self._read(completion, text, latency_ms=(self._monotonic() - started) * 1000)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _prompt(self, text: str) -> str:
        return self._template.substitute(text=text, labels="\n".join(self._labels))

    async def _complete(self, prompt: str) -> _Completion:
        settings = self._settings
        messages: Any = [{"role": "user", "content": prompt}]
        parameters: dict[str, Any] = dict(settings.parameters)
        retries: Any = stamina.retry_context(
            on=_refused, attempts=settings.attempts, timeout=settings.timeout_s, wait_initial=0.2, wait_max=2.0
        )
        async for attempt in retries:
            with attempt:
                answer = await self._client.chat.completions.with_raw_response.create(
                    model=settings.model, messages=messages, **parameters
                )
                return msgspec.json.decode(answer.content, type=_Completion)
        raise AssertionError  # the last attempt returned or raised

    def _read(self, completion: _Completion, text: str, *, latency_ms: float) -> Reply:
        usage = Usage()
        cost_usd = self.cost_bound_usd(text)  # an endpoint that does not say what it used
        if (used := completion.used()) is not None:
            usage = Usage(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)
            cost_usd = self._price(usage.prompt_tokens, usage.completion_tokens)
        said = completion.choices[0].message.content
        try:
            label = parse_label(said or "", self._labels, answer_format=self._settings.answer_format)
        except InvalidAnswerError as error:
            return Invalid(detail=str(error), kind=error.kind, said=said or "", cost_usd=cost_usd, usage=usage)
        return Answered(
            answer=LabelAnswer(
                model=self._settings.model,
                prompt_version=self.prompt_version,
                usage=usage,
                cost_usd=cost_usd,
                latency_ms=latency_ms,
                label=label,
            )
        )

    def _price(self, input_tokens: int, output_tokens: int) -> float:
        settings = self._settings
        return (input_tokens * settings.input_usd_per_mtok + output_tokens * settings.output_usd_per_mtok) / _MTOK


def _refused(error: Exception) -> bool:
    """Whether a call was surely not billed, so that it may be sent again: 429, 5xx, or no connection."""
    if isinstance(error, openai.APITimeoutError):
        return False
    return isinstance(error, openai.RateLimitError | openai.InternalServerError | openai.APIConnectionError)
