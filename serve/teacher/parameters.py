"""What may be set of a teacher's call: checked before anything is sent, so that nothing fails at the first question.

Everything in `parameters` goes into the request's body, whether a client library knows it or not. What we set
ourselves, and what would make the answer something else than one text, is refused.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final
from urllib.parse import urlsplit

from store.errors import SettingsError

APART: Final = ("extra_headers", "extra_query", "extra_body")  # sent as headers, in the address, and beside the rest
OUTPUT_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_MOST_BYTES: Final = 64 << 10
_MOST_TOKENS: Final = 10_000_000
_DEEPEST: Final = 32
_I64: Final = 1 << 63
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1000}[\x21-\x7e])?")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_OURS: Final = {
    "model": "it is lanes.teacher.model",
    "messages": "they are made from lanes.teacher.prompt_file",
    "prompt": "it is made from lanes.teacher.prompt_file",
    "input": "it is made from lanes.teacher.prompt_file",
    "timeout": "it is lanes.teacher.timeout_s",
    "max_retries": "what may be sent again is",
    "api_key": "lanes.teacher.api_key_env names its variable",
    "base_url": "it is lanes.teacher.base_url",
    "stream_options": "answers are not streamed",
    **dict.fromkeys(
        ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "audio"),
        "an answer is a text",
    ),
}
_OUR_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_ONLY: Final[Mapping[str, Any]] = {"stream": False, "n": 1, "best_of": 1}


def check_call(*, base_url: str, model: str, proxy: str | None, parameters: Mapping[str, Any]) -> None:
    """See that a call can be made of what the settings say.

    Raises:
        SettingsError: something cannot be sent; the message begins with its key in the teacher's table.
    """
    for key, check, value in (
        ("base_url", check_base_url, base_url),
        ("model", check_model, model),
        ("proxy", check_proxy, proxy or base_url),
    ):
        try:
            check(value)
        except SettingsError as error:
            message = f"{key}: {error}"
            raise SettingsError(message) from error
    try:
        check_parameters(parameters)
    except SettingsError as error:
        message = f"parameters.{error}"
        raise SettingsError(message) from error


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """See that the parameters can be sent.

    Raises:
        SettingsError: one cannot, or is not for the settings to say; the message begins with its path in the table.
    """
    for name in APART:
        if not isinstance(parameters.get(name, {}), Mapping):
            message = f"{name}: a table"
            raise SettingsError(message)
    sent = {name: value for name, value in parameters.items() if name not in APART}
    beside = parameters.get("extra_body", {})
    if twice := sorted(sent.keys() & beside.keys()):
        message = f"extra_body.{twice[0]}: it is there twice"
        raise SettingsError(message)
    _check_body(sent, "")
    _check_body(beside, "extra_body.")
    for name, value in parameters.get("extra_headers", {}).items():
        _check_header(name, value)
    for name, value in parameters.get("extra_query", {}).items():
        if not isinstance(value, str) or _CONTROL.search(name + value):
            message = f"extra_query.{_shown(name)}: a text without control characters"
            raise SettingsError(message)
    if len(json.dumps(dict(parameters)).encode()) > _MOST_BYTES:
        message = f"over {_MOST_BYTES} bytes in all"
        raise SettingsError(message)


def body_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the request's body beside model and messages."""
    sent = {name: value for name, value in parameters.items() if name not in APART}
    return sent | dict(parameters.get("extra_body", {}))


def most_output_tokens(parameters: Mapping[str, Any]) -> int | None:
    """How long an answer may be; None where nothing limits it."""
    body = body_of(parameters)
    limits = [int(body[name]) for name in OUTPUT_LIMITS if body.get(name) is not None]
    return max(limits, default=None)


_PATHS: Final = re.compile(r"/(?:chat/completions|completions|responses|rerank)/?\Z")


def check_base_url(url: str) -> None:
    """See that an endpoint's address is one, and holds no secret.

    Raises:
        SettingsError: it is not; the message does not quote it.
    """
    problem = _address_problem(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not problem and (parts.username is not None or parts.password is not None):
        problem = "no user or password: lanes.teacher.api_key_env names the variable with the key"
    if not problem and (last := _PATHS.search(parts.path)) is not None:
        problem = f"up to and including /v1: {last[0]} is put behind it"
    if not problem and (parts.query or parts.fragment or url.endswith(("?", "#"))):
        problem = "nothing after ? or #: lanes.teacher.parameters.extra_query is for that"
    if problem:
        raise SettingsError(problem)


def check_proxy(url: str) -> None:
    """The same for a proxy's address, which may hold a user and a password."""
    if problem := _address_problem(url):
        raise SettingsError(problem)


def check_model(name: str) -> None:
    """See that a model's name can be sent.

    Raises:
        SettingsError: it is empty or holds what no name holds.
    """
    if not name.strip() or _CONTROL.search(name) or len(name) > 256:  # noqa: PLR2004
        message = "a name of 1 to 256 characters, without control characters"
        raise SettingsError(message)


def checked_key(value: str) -> str:
    """An API key as a header can carry it; white space around it, such as a file's last newline, is taken off.

    Raises:
        SettingsError: what is left is empty, or holds blanks, control characters or other than ASCII. Quotes nothing.
    """
    key = value.strip()
    if _KEY.fullmatch(key) is None:
        message = "an API key is 1 to 4096 ASCII characters without blanks or newlines in it"
        raise SettingsError(message)
    return key


def _check_body(table: Mapping[str, Any], prefix: str) -> None:
    for name, value in table.items():
        _check_json(value, prefix + _shown(name), depth=0)
        if problem := _problem(name, value):
            message = f"{prefix}{_shown(name)}: {problem}"
            raise SettingsError(message)


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with one parameter; None: nothing that we know of."""
    if name in _OURS:
        return f"not to be set here: {_OURS[name]}"
    if name in APART:
        return "not inside another"
    if value is None:  # in a variable's JSON: as if it were not there
        return None
    if name in _ONLY:
        right = _ONLY[name]
        return None if type(value) is type(right) and value == right else f"only {json.dumps(right)} is possible"
    return next((says for names, good, says in _KINDS if name in names and not good(value)), None)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stops(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


_KINDS: Final[tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...]] = (
    (
        OUTPUT_LIMITS,
        lambda value: _whole(value) and 1 <= value <= _MOST_TOKENS,
        f"a whole number from 1 to {_MOST_TOKENS}",
    ),
    (("seed", "top_k", "top_logprobs", "min_tokens"), _whole, "a whole number"),
    (
        ("temperature", "top_p", "min_p", "repetition_penalty"),
        lambda value: _number(value) and value >= 0,
        "a number, 0 or more",
    ),
    (("presence_penalty", "frequency_penalty"), _number, "a number"),
    (("stop",), _stops, "a text, or a list of texts"),
    (
        ("chat_template_kwargs", "logit_bias", "metadata", "response_format"),
        lambda value: isinstance(value, Mapping),
        "a table",
    ),
    (
        ("reasoning_effort", "service_tier", "user", "verbosity"),
        lambda value: isinstance(value, str),
        "a text",
    ),
    (
        ("logprobs", "store", "ignore_eos", "skip_special_tokens"),
        lambda value: isinstance(value, bool),
        "true or false",
    ),
)


def _check_json(value: Any, path: str, *, depth: int) -> None:
    """See that a value is one of JSON, and of a size that any endpoint reads."""
    if problem := _not_json(value, depth):
        message = f"{path}: {problem}"
        raise SettingsError(message)
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = ((str(index), one) for index, one in enumerate(value))
    for name, one in inner:
        if not isinstance(name, str):
            message = f"{path}: a key that is no text"
            raise SettingsError(message)
        _check_json(name, f"{path}.{_shown(name)}", depth=depth + 1)
        _check_json(one, f"{path}.{_shown(name)}", depth=depth + 1)


def _not_json(value: Any, depth: int) -> str | None:
    """Why a value by itself is none of JSON; what is inside it is not looked at."""
    if depth > _DEEPEST:
        return f"more than {_DEEPEST} tables inside one another"
    match value:
        case int():
            good, says = -_I64 <= value < _I64, "a number of more than 64 bits"
        case float():
            good, says = isfinite(value), "not a number that JSON has"
        case str():
            good, says = _encodes(value), "not text in Unicode"
        case _:
            good = value is None or isinstance(value, list | tuple | Mapping)
            says = f"{type(value).__name__}: not a value that JSON has"
    return None if good else says


def _check_header(name: str, value: Any) -> None:
    problem = None
    if not isinstance(value, str) or _HEADER_VALUE.fullmatch(value) is None:
        problem = "a text of ASCII characters"
    elif _HEADER_NAME.fullmatch(name) is None:
        problem = "no name of a header"
    elif name.lower() in _OUR_HEADERS:
        problem = "not to be set here"
    if problem:
        message = f"extra_headers.{_shown(name)}: {problem}"
        raise SettingsError(message)


def _address_problem(url: str) -> str | None:
    if not url.isascii() or _CONTROL.search(url) or " " in url:
        return "an address of ASCII characters without blanks; write a host's other letters as xn--..."
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:
        good = False
    return None if good else "an address like https://api.example.com/v1"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: Any) -> str:
    """A key for a message: it may hold anything."""
    return _CONTROL.sub("?", str(name))[:64]
