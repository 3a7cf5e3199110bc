"""The demo's client: sends the traffic at its own pace, whatever the gateway does (an open loop), and keeps answers."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import httpx

from ops.demo.measures.measure import Outcome
from store.event import wall_clock_s

CONCURRENCY: Final = 64  # requests in flight, at most
_TIMEOUT_S: Final = 40.0  # longer than the gateway waits for its teacher
_TRIES: Final = 20  # of a request that a busy gateway puts off
_JITTER_RATIO: Final = 0.5  # of the mean gap, to either side


def schedule_s(requests: int, rate: float, seed: int) -> list[float]:
    """When each request is due, seconds after the first: evenly, with a small seeded jitter, in order."""
    rng = Random(f"understudy-pace/{seed}")  # noqa: S311 - a pace, no secret
    return sorted(max(0.0, (index + rng.uniform(-_JITTER_RATIO, _JITTER_RATIO)) / rate) for index in range(requests))


class Client:
    """Sends requests and records what came back."""

    def __init__(self, url: str, use_case: str, item_ids: Callable[[str], str]) -> None:
        """Prepare.

        Args:
            url: of the gateway.
            use_case: the `model` that is asked for.
            item_ids: a text's item id, as the product computes it.
        """
        self.outcomes: list[Outcome] = []
        self._url = url
        self._use_case = use_case
        self._item_ids = item_ids
        self._turns = asyncio.Semaphore(CONCURRENCY)

    async def send_all(self, requests: Sequence[tuple[str, str]], due_s: Sequence[float]) -> None:
        """Send every (text, recorded answer) when it is due; returns once all are answered."""
        limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for index, ((text, expected), at_s) in enumerate(zip(requests, due_s, strict=True)):
                await asyncio.sleep(max(0.0, start_s + at_s - loop.time()))
                await self._turns.acquire()
                group.create_task(self._send(http, index, text, expected))

    async def _send(self, http: httpx.AsyncClient, index: int, text: str, expected: str) -> None:
        at_s = wall_clock_s()
        try:
            answer = await self._ask(http, text)
            found = _read(answer)
        except httpx.HTTPError as error:
            found = {"label": None, "error": f"{type(error).__name__}: {error}"}
        finally:
            self._turns.release()
        self.outcomes.append(
            Outcome(
                index=index,
                at_s=at_s,
                expected=expected,
                item_id=self._item_ids(text),
                label=found["label"],
                served_by=found.get("served_by"),
                version=found.get("version"),
                event_id=found.get("event_id"),
                withheld=bool(found.get("withheld")),
                degraded=bool(found.get("degraded")),
                error=found.get("error"),
            )
        )

    async def _ask(self, http: httpx.AsyncClient, text: str) -> httpx.Response:
        """The answer; a gateway that is busy says when to come again."""
        tries = 0
        while True:
            answer = await http.post("/v1/classify", json={"model": self._use_case, "input": text})
            tries += 1
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS or tries == _TRIES:
                return answer
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")))


def _read(answer: httpx.Response) -> dict[str, Any]:
    """The one datum of an answer; anything else is a failure with its words."""
    if answer.status_code != httpx.codes.OK:
        return {"label": None, "error": f"HTTP {answer.status_code}: {answer.text[:200]}"}
    datum: dict[str, Any] = answer.json()["data"][0]
    if not isinstance(datum.get("label"), str):
        return {"label": None, "error": f"no label: {datum.get('error')}"}
    return datum | {"error": None}
