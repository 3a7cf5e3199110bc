"""The teacher behind the proxy: where a request goes, with which key and under which model's name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx2

from serve.teacher.wire import time_outs

_HOP: Final = frozenset(  # of one connection (RFC 9110, 7.6.1), or made anew by whoever sends
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "host", "content-length", "accept-encoding", "content-encoding"}
)
_KEYS: Final = frozenset({"authorization", "x-api-key", "api-key"})
_VERSIONS: Final = ("/v1/", "/v2/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a client sent."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiedTeacher:
    """An OpenAI-compatible endpoint."""

    base_url: str  # up to and including /v1
    api_key: str | None = field(default=None, repr=False)  # None: each client's own goes on
    model: str | None = None  # None: the one that the client names
    timeout_s: float = 600.0  # without a byte of an answer

    def path_of(self, asked: str) -> str:
        """The path below the address for one that a client asks: a version at its beginning stands there already."""
        return next((asked[len(one) - 1 :] for one in _VERSIONS if asked.startswith(one)), asked)

    def request(self, client: httpx2.AsyncClient, method: str, asked: str, query: str, sent: Sent) -> httpx2.Request:
        """What is sent on."""
        url = self.base_url.rstrip("/") + self.path_of(asked) + (f"?{query}" if query else "")
        left_out = _HOP | _KEYS if self.api_key is not None else _HOP
        headers = {name: value for name, value in sent.headers.items() if name.lower() not in left_out}
        headers["accept-encoding"] = "identity"
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        return client.build_request(method, url, headers=headers, content=sent.body)

    def client(self) -> httpx2.AsyncClient:
        """Goes where it is told and nowhere else; the environment's proxies and `.netrc` are not read."""
        return httpx2.AsyncClient(
            timeout=time_outs(self.timeout_s),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
        )


def passed_back(response: httpx2.Response) -> dict[str, str]:
    """The headers of an answer that are the client's, too."""
    return {name: value for name, value in response.headers.items() if name.lower() not in _HOP}
