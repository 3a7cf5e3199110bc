"""Asks a process of this machine on its admin port."""

from http.client import HTTPConnection, HTTPException
from typing import Final

from ops.site import Site
from ops.state.run_files import RunFile

_PROBE_S: Final = 2.0
_MAX_ANSWER_BYTES: Final = 1 << 20


def ask_process(
    site: Site, found: RunFile | None, path: str, *, timeout_s: float = _PROBE_S
) -> tuple[int, bytes] | None:
    """A process's answer on its admin port: status and body; None when it does not run or does not answer."""
    if found is None or found.admin_port is None:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(site.settings.admin.host, site.settings.admin.host)  # noqa: S104
    connection = HTTPConnection(host, found.admin_port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER_BYTES)
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
