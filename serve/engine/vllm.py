"""One vLLM server over HTTP: adapters loaded and unloaded by name, prompts answered with what each token was worth.

What its health does not tell shows in its answers: a server that once ran an adapter of NaN says nothing, to anybody,
and is well (seen with 0.32). So an empty answer, and one that is no number, is an error here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import httpx2
import msgspec

from serve.completions.stream import DONE, Events

_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_NOT_A_NUMBER: Final = "not JSON compliant"  # of NaN; Python 3.12 says which number it was, and 3.11 does not
_SHOWN_CHARS: Final = 200
_LOAD_S: Final = 120.0


class EngineError(Exception):
    """A server did not do what it was asked; another one may."""


class EngineBusyError(EngineError):
    """It takes no more now."""


class UnknownVersionError(EngineError):
    """It does not know this version: it was started anew, perhaps."""


class PoisonedError(EngineError):
    """It says nothing, or no numbers: whatever it answers from now on is not to be trusted."""


class _Logprobs(msgspec.Struct, frozen=True):
    token_logprobs: list[float | None] = []


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct, frozen=True):
    choices: list[_Choice]


class _Model(msgspec.Struct, frozen=True):
    id: str
    root: str | None = None  # the folder that it was started with, or of an adapter
    parent: str | None = None  # of an adapter: what it stands on


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer."""

    text: str
    ids: list[int]  # the end included, where it came to one
    logprobs: list[float]  # of these
    whole: bool  # it ended by itself


Heard = Callable[[Said], None]
"""Told of an answer as far as it has come, longer each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked of a version."""

    version: str  # its name on the server
    ids: Sequence[int]
    limit: int  # tokens of the answer
    stops: tuple[str, ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        """The request: greedy, in a cache of the version's own."""
        found: dict[str, Any] = {
            "model": self.version,
            "prompt": list(self.ids),
            "max_tokens": self.limit,
            "temperature": 0.0,
            "logprobs": 0,
            "return_token_ids": True,
            "cache_salt": self.version,
        }
        return found | ({"stop": list(self.stops)} if self.stops else {})


class VllmServer:
    """Speaks to one server: answers from the event loop, everything else from a thread that may wait."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        """Prepare; nothing is sent.

        Args:
            url: up to and including /v1.
            api_key: bearer; None: it wants none.
            timeout_s: of an answer.
        """
        self.url = url.rstrip("/")
        self._root = self.url.removesuffix("/v1")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s
        self._client: httpx2.AsyncClient | None = None

    async def answer(self, prompt: Prompt, heard: Heard | None = None) -> Said:
        """The answer to a prompt; `heard` is told of it while it comes. Who is cancelled ends the server's work.

        Raises:
            EngineError: there is none; the subclass says what to make of the server.
        """
        if self._client is None:
            self._client = httpx2.AsyncClient(headers=self._headers, timeout=self._timeout_s, trust_env=False)
        try:
            if heard is not None:
                return await _streamed(self._client, f"{self.url}/completions", prompt, heard)
            response = await self._client.post(f"{self.url}/completions", json=prompt.body)
        except httpx2.HTTPError as error:
            raise EngineError(type(error).__name__) from error
        return _said(response, prompt)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def ask(self, prompt: Prompt) -> Said:
        """As `answer`, for who may block."""
        return _said(self._send("POST", f"{self.url}/completions", prompt.body), prompt)

    def names(self) -> frozenset[str]:
        """The models and adapters that it lists.

        Raises:
            EngineError: it does not say.
        """
        return frozenset(one.id for one in self._models())

    def roots(self) -> frozenset[str]:
        """Folders of the models that it was started with; adapters are none of them.

        Raises:
            EngineError: it does not say.
        """
        return frozenset(one.root for one in self._models() if one.parent is None and one.root is not None)

    def _models(self) -> list[_Model]:
        response = self._send("GET", f"{self.url}/models")
        try:
            return msgspec.json.decode(response.content, type=_Models).data
        except msgspec.MsgspecError as error:
            message = f"no list of models (status {response.status_code})"
            raise EngineError(message) from error

    def healthy(self) -> bool:
        """Whether it says that it is; see above what that is worth."""
        try:
            return self._send("GET", f"{self._root}/health").is_success
        except EngineError:
            return False

    def load(self, name: str, folder: str) -> None:
        """Load an adapter from a folder that the server sees. A name is never loaded twice: its cache would be stale.

        Raises:
            EngineError: it was refused; what it served before, it serves.
        """
        body = {"lora_name": name, "lora_path": folder}
        response = self._send("POST", f"{self.url}/load_lora_adapter", body, timeout_s=_LOAD_S)
        if not response.is_success:
            message = f"the server refused {name} (status {response.status_code}): {response.text[:_SHOWN_CHARS]}"
            raise EngineError(message)

    def unload(self, name: str) -> None:
        """Forget an adapter; streams that use it end well. One that it does not know is forgotten.

        Raises:
            EngineError: it did not do so.
        """
        response = self._send("POST", f"{self.url}/unload_lora_adapter", {"lora_name": name})
        if not response.is_success and response.status_code != _NOT_FOUND:
            message = f"the server kept {name} (status {response.status_code})"
            raise EngineError(message)

    def _send(
        self, method: str, url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> httpx2.Response:
        timeout = self._timeout_s if timeout_s is None else timeout_s
        try:
            with httpx2.Client(headers=self._headers, timeout=timeout, trust_env=False) as client:
                return client.request(method, url, json=body)
        except httpx2.HTTPError as error:
            raise EngineError(type(error).__name__) from error


async def _streamed(client: httpx2.AsyncClient, url: str, prompt: Prompt, heard: Heard) -> Said:
    """An answer that comes piece by piece; errors as of `VllmServer.answer`, the same as of a whole one."""
    text, ids, logprobs, ended = "", list[int](), list[float | None](), None
    events = Events()
    async with client.stream("POST", url, json=prompt.body | {"stream": True}) as response:
        if response.status_code >= _BAD_REQUEST:
            await response.aread()
            return _said(response, prompt)
        async for piece in response.aiter_bytes():
            for data in events.feed(piece):
                if data == DONE:
                    continue
                choice = _choice(data)
                text += choice.text
                ids += choice.token_ids or []
                logprobs += choice.logprobs.token_logprobs if choice.logprobs is not None else []
                ended = choice.finish_reason or ended
                if ended is None and ids:
                    heard(_whole(text, ids, logprobs, ended))
    if ended is None:
        message = "the answer broke off"
        raise EngineError(message)
    return _whole(text, ids, logprobs, ended)


def _choice(content: bytes) -> _Choice:
    try:
        return msgspec.json.decode(content, type=_Completion).choices[0]
    except (msgspec.MsgspecError, IndexError) as error:
        if all(mark in content.decode(errors="replace") for mark in _NOT_A_NUMBER):  # an error amid a stream
            message = "what it says is no number"
            raise PoisonedError(message) from error
        message = "not a completion"
        raise EngineError(message) from error


def _whole(text: str, ids: Sequence[int], logprobs: Sequence[float | None], ended: str | None) -> Said:
    worth = [one for one in logprobs if one is not None and isfinite(one)]
    if not ids or len(worth) != len(ids):
        message = f"an answer of {len(ids)} tokens with {len(worth)} numbers"
        raise PoisonedError(message)
    return Said(text=text, ids=list(ids), logprobs=worth, whole=ended == "stop")


def _said(response: httpx2.Response, prompt: Prompt) -> Said:
    status, text = response.status_code, response.text
    if status == _NOT_FOUND:
        message = f"it does not know {prompt.version}"
        raise UnknownVersionError(message)
    if status == _TOO_MANY:
        message = "it takes no more now"
        raise EngineBusyError(message)
    if status >= _BAD_REQUEST:
        if _NOT_A_NUMBER in text:
            message = "what it says is no number"
            raise PoisonedError(message)
        message = f"status {status}: {text[:_SHOWN_CHARS]}"
        raise EngineError(message)
    choice = _choice(response.content)
    logprobs = choice.logprobs.token_logprobs if choice.logprobs is not None else []
    return _whole(choice.text, choice.token_ids or [], logprobs, choice.finish_reason)
