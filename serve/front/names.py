"""By which names a port may be called, and what comes from a web page: for the gateway's port and the admin ports."""

import ipaddress
from collections.abc import Mapping
from typing import Final

_OF_THIS_SITE: Final = frozenset({None, "none", "same-origin"})


def from_no_page(headers: Mapping[str, str], origins: frozenset[str] = frozenset()) -> bool:
    """Whether no web page but an allowed one made a browser send this."""
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() in origins
    return headers.get("sec-fetch-site") in _OF_THIS_SITE


def known_host(host: str | None, names: frozenset[str]) -> bool:
    """Whether a Host header names this machine: an address, `localhost` or one of `names`.

    Rebinding needs a name, so that any address will do, a pod's too. Browsers always say one; HTTP/1.0 need not.
    """
    if host is None:
        return True
    name = host_name(host)
    return name == "localhost" or name.endswith(".localhost") or name in names or _is_address(name)


def host_name(host: str) -> str:
    """The name of a Host header, without port, brackets and final dot, in lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, colon, port = text.rpartition(":")
    bare = name if colon and port.isdigit() else text
    return bare.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
