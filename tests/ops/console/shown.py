"""A console on a real admin port, and what is asked of it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ops.access.tokens import Role, add_token
from ops.console.app import Console
from ops.processes.admin import Probes, admin_server
from ops.settings import Settings
from ops.site import Site

NOW_S = 1_790_000_000.0


@dataclass(frozen=True)
class Shown:
    """A console that answers."""

    site: Site
    console: Console
    http: httpx.Client

    def token(self, role: Role, name: str = "ada") -> str:
        """A new token."""
        return add_token(self.site.settings.keys.tokens, name, role, NOW_S)

    def get(self, path: str = "", token: str | None = None, **headers: str) -> httpx.Response:
        """A page."""
        return self.http.get(f"/console{path}", headers=_headers(token, headers))

    def post(self, path: str, token: str | None = None, form: Any = None, **headers: str) -> httpx.Response:
        """What a form comes to."""
        return self.http.post(f"/console{path}", data=form or {}, headers=_headers(token, headers))


@contextmanager
def showing(settings: Path, *, hosts: frozenset[str] = frozenset()) -> Iterator[Shown]:
    """The console of an installation, for as long as the block runs."""
    site = Site(Settings.load(settings))
    probes = Probes(live=lambda: True, ready=lambda: True)
    with (
        closing(Console(site)) as console,
        admin_server("127.0.0.1", 0, probes, hosts=hosts, pages=console) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        yield Shown(site, console, http)


def _headers(token: str | None, headers: dict[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return named if token is None else {**named, "Authorization": f"Bearer {token}"}
