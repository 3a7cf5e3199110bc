"""Which lane a request means: its API key names the tenant, its `model` the use case."""

import hashlib
from collections.abc import Sequence

from starlette.datastructures import Headers

from serve.front.errors import ApiError
from serve.lane.opened import OpenLane
from store.errors import SettingsError


class Directory:
    """Every lane, by key and use case."""

    def __init__(self, lanes: Sequence[OpenLane]) -> None:
        """Index the lanes.

        Raises:
            SettingsError: a key would open two tenants of one use case, or two lanes without keys share one.
        """
        self._by_key: dict[tuple[str, bytes], OpenLane] = {}
        self._open: dict[str, OpenLane] = {}
        self._use_cases = {lane.parts.settings.lane.use_case for lane in lanes}
        for lane in lanes:
            use_case = lane.parts.settings.lane.use_case
            for key in lane.parts.settings.api_keys:
                if self._by_key.setdefault((use_case, _digest(key)), lane) is not lane:
                    message = f"lanes.api_keys: one key opens two tenants of {use_case}"
                    raise SettingsError(message)
            if not lane.parts.settings.api_keys and self._open.setdefault(use_case, lane) is not lane:
                message = f"lanes.api_keys: two tenants of {use_case} have no keys and cannot be told apart"
                raise SettingsError(message)
        self._keys = {digest for _, digest in self._by_key}
        self.open_here = bool(self._open)  # some lane is open to this machine without a key

    def become(self, other: "Directory") -> None:
        """Answer like the other one from the next request on."""
        self.__dict__.update(other.__dict__)

    def opens(self, key: str | None) -> bool:
        """Whether a key opens any lane at all: what can be known before the body names the use case."""
        return key is not None and _digest(key) in self._keys

    def find(self, use_case: str, key: str | None, *, local: bool) -> OpenLane:
        """The lane of a request. A lane without keys is open to this machine alone, whatever key it is shown.

        Raises:
            ApiError: 404 for an unknown use case, 401 for a key that opens none of its lanes.
        """
        if use_case not in self._use_cases:
            raise ApiError(404, "unknown_model", "no lane serves this model", "model")
        lane = self._by_key.get((use_case, _digest(key))) if key is not None else None
        if lane is None and local:
            lane = self._open.get(use_case)
        if lane is None:
            raise ApiError(401, "invalid_api_key", "this API key opens no lane of this model")
        return lane

    def opened_by(self, key: str | None, *, local: bool) -> list[OpenLane]:
        """The lanes that `find` gives for this key."""
        keyed = [] if key is None else [lane for (_, of), lane in self._by_key.items() if of == _digest(key)]
        named = {lane.parts.settings.lane.use_case for lane in keyed}
        return [*keyed, *(lane for name, lane in self._open.items() if local and name not in named)]


def api_key(headers: Headers) -> str | None:
    """The key that a request shows, as a bearer token or in X-API-Key."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key")


def _digest(key: str) -> bytes:
    """Keys are looked up by their hash, so that the time a look-up takes says nothing about a key."""
    return hashlib.sha256(key.encode()).digest()
