"""The demo's client: sends the traffic at its own pace, whatever the gateway does (an open loop), and keeps answers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

import httpx

from ops.demo.measures.measure import Exchange
from ops.demo.tasks.play import DemoTask, DemoTraffic, Request
from store.event import TaskInput, wall_clock_s

_TIMEOUT_S: Final = 40.0  # longer than the gateway waits for its teacher
_TRIES: Final = 20  # of a request that the gateway puts off
_JITTER_RATIO: Final = 0.5  # of the mean gap, to either side


def schedule_s(requests: int, rate: float, seed: int) -> list[float]:
    """When each request is due, seconds after the first: evenly, with a small seeded jitter, in order."""
    rng = Random(f"understudy-pace/{seed}")  # noqa: S311 - a pace, no secret
    return sorted(max(0.0, (index + rng.uniform(-_JITTER_RATIO, _JITTER_RATIO)) / rate) for index in range(requests))


class Client:
    """Sends one lane's requests and records what came back."""

    def __init__(self, url: str, traffic: DemoTraffic, play: DemoTask, item_ids: Callable[[TaskInput], str]) -> None:
        """Prepare.

        Args:
            url: of the gateway.
            traffic: what is sent.
            play: how its task is asked.
            item_ids: a question's item id, as the product computes it.
        """
        self.outcomes: list[Exchange] = []
        self._url = url
        self._traffic = traffic
        self._play = play
        self._item_ids = item_ids
        self._dice = Random("understudy-retries")  # noqa: S311 - a pace, no secret

    async def send_all(self, due_s: Sequence[float], first: int = 0, *, in_flight: int | None = None) -> None:
        """Send so many requests from the `first` on, each when it is due; returns once all are answered.

        Args:
            due_s: seconds from now, ascending.
            first: the place of the first of them in the traffic.
            in_flight: at most; None: as the task's pace says.
        """
        most = in_flight or self._play.pace.in_flight
        turns = asyncio.Semaphore(most)
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_S, limits=limits, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for index, at_s in enumerate(due_s, first):
                await asyncio.sleep(max(0.0, start_s + at_s - loop.time()))
                await turns.acquire()
                sent = group.create_task(self._send(http, index, self._traffic.requests[index]))
                sent.add_done_callback(lambda _: turns.release())

    async def _send(self, http: httpx.AsyncClient, index: int, request: Request) -> None:
        at_s = wall_clock_s()
        agreed: bool | None = None
        told: Mapping[str, Any] = {}
        words: str | None = None
        failure: str | None = None
        try:
            answer = await self._ask(http, request)
            if answer.status_code == httpx.codes.OK:
                body = answer.json()
                agreed, told = self._play.agreed(self._traffic, request, body), self._play.told(body)
                words = self._play.answered(request, body)
            else:
                failure = f"HTTP {answer.status_code}: {answer.text[:200]}"
        except httpx.HTTPError as error:
            failure = f"{type(error).__name__}: {error}"
        except (ValueError, LookupError, TypeError) as error:
            failure = str(error)
        self.outcomes.append(
            Exchange(
                index=index,
                at_s=at_s,
                item_id=self._item_ids(request.value),
                agreed=agreed,
                served_by=told.get("served_by"),
                version=told.get("version"),
                event_id=told.get("event_id"),
                withheld=bool(told.get("withheld")),
                degraded=bool(told.get("degraded")),
                answer=words,
                error=failure,
            )
        )

    async def _ask(self, http: httpx.AsyncClient, request: Request) -> httpx.Response:
        """The answer; a gateway that is busy, or does not know its budget yet, says when to come again."""
        path, body = self._play.ask(self._traffic.lane.use_case, request.value)
        tries = 0
        while True:
            answer = await http.post(path, json=body)
            tries += 1
            wait_s = answer.headers.get("retry-after")
            if wait_s is None or tries == _TRIES:
                return answer
            await asyncio.sleep(
                float(wait_s) * self._dice.uniform(0.5, 1.5)
            )  # or all that were refused come back at once
