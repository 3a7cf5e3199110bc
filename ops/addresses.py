"""Addresses in the settings, taken apart before anything connects. What is wrong with one never quotes it."""

import re
import socket
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from serve.front.names import host_name

_BOOLEAN: Final = re.compile(r"true|false|yes|no|1|0", re.IGNORECASE)
_OPTIONS: Final = {  # of redis.url, as redis-py reads them; those that we set ourselves are none
    "db": re.compile(r"\d{1,4}"),
    "username": re.compile(r".+"),
    "password": re.compile(r".*"),
    "client_name": re.compile(r"[!-~]+"),
    "protocol": re.compile(r"[23]"),
    "health_check_interval": re.compile(r"\d{1,6}"),
    "socket_keepalive": _BOOLEAN,
    "ssl_cert_reqs": re.compile(r"none|optional|required"),
    "ssl_check_hostname": _BOOLEAN,
    "ssl_ca_certs": re.compile(r".+"),
    "ssl_ca_path": re.compile(r".+"),
    "ssl_certfile": re.compile(r".+"),
    "ssl_keyfile": re.compile(r".+"),
}
_PORT: Final = re.compile(r"(?:rediss?://)?(?:\[[^\]]*\]|[^:/?\[]*):([^/?]*)")  # behind the host
_LAST_PORT: Final = 65535
_ESCAPES: Final = "in a password # is written %23, ? %3F, / %2F, @ %40 and % %25"


def port_names(host: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """The names that a port may be called by: as it is configured, and the machine's own."""
    return frozenset(host_name(name) for name in (host, socket.gethostname(), *allowed) if name)


def wrong_redis_url(url: str) -> str | None:
    """What is wrong with the address of a Redis; None: nothing. It quotes no part of it."""
    behind = url.rpartition("@")[2].partition("?")[0]
    wrong = {
        "it begins with redis://, rediss:// or unix://": re.match(r"rediss?://|unix://", url) is None,
        f"it holds a #, and what follows it would be cut off: {_ESCAPES}": "#" in url,
        f"a % in it is followed by no two digits: {_ESCAPES}": re.search(r"%(?![0-9A-Fa-f]{2})", url) is not None,
        "it holds ${…}, which nobody fills in: set the variable UNDERSTUDY_REDIS__URL to the whole address": (
            "${" in url
        ),
        "it names several hosts: give one, of the primary or of a proxy in front of it": (
            "," in behind and not url.startswith("unix:")
        ),
    }
    if (first := next((why for why, there in wrong.items() if there), None)) is not None:
        return first
    parts = _split(url)
    if parts is None:
        if (port := _PORT.match(url.rpartition("@")[2])) is not None and not _is_port(port[1]):
            return f"its port is no number from 1 to 65535, as redis://host:6379/0: {_ESCAPES}"
        return f"it cannot be taken apart as scheme://user:password@host:port/database: {_ESCAPES}"
    return _wrong_place(parts) or _wrong_option(parts.query)


def wrong_collector_url(url: str) -> str | None:
    """What is wrong with the address of a collector of spans; None: nothing. It quotes no part of it."""
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        return 'it is no address, as "http://127.0.0.1:4318"'
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "it holds a user, a ? or a #: keys belong into headers, in the variable that headers_env names"
    return None


def _wrong_place(parts: SplitResult) -> str | None:
    if "@" in parts.path or "@" in parts.query or parts.netloc.count("@") > 1:
        return f"there is a @ behind the host: {_ESCAPES}"
    if parts.scheme == "unix":
        if parts.netloc.rpartition("@")[2]:
            return "unix:// is followed by a third /: the path of a socket is absolute, as unix:///run/redis/redis.sock"
        there = bool(parts.path.strip("/"))
        return None if there else "unix:// wants the path of a socket, as unix:///run/redis/redis.sock"
    if re.fullmatch(r"/?|/[0-9]{1,4}", parts.path):
        return None
    return "its path is no number of a database, as redis://host:6379/0"


def _is_port(said: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", said) is not None and 0 < int(said) <= _LAST_PORT


def _split(url: str) -> SplitResult | None:
    """The parts; None: a port that is none, or brackets that do not close."""
    if any(ord(letter) <= ord(" ") or ord(letter) == 0x7F for letter in url):  # noqa: PLR2004 - DEL
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 or parts.netloc.rpartition("@")[2].endswith(":") else parts


def _wrong_option(query: str) -> str | None:
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        return f"what follows the ? is no list of options, as ?db=1: {_ESCAPES}"
    if any(name not in _OPTIONS for name, _ in options) or len(dict(options)) != len(options):
        return f"an option behind the ? is unknown or there twice; there are {', '.join(_OPTIONS)}"
    wrong = [name for name, value in options if not _OPTIONS[name].fullmatch(value)]
    return f"its option {wrong[0]} has a value that it cannot have" if wrong else None
