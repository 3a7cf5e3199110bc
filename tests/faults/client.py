"""A client that sends traffic at its own pace and never gives a request up: it retries with the same key."""

import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Self

import httpx

from store.event import Lane, event_id_of_key
from tests.faults.claims import Received

THREADS: Final = 8
RATE: Final = 20.0  # requests a second, over all threads
FORCED_RATIO: Final = 0.3  # go to the teacher whatever the student says, so that there are events to count
_TIMEOUT_S: Final = 10.0  # of one attempt
_PATIENCE_S: Final = 90.0  # of one request, with its retries
_AGAIN_S: Final = 0.25


class Client:
    """Sends requests from some threads until it is stopped, and keeps what came back."""

    def __init__(
        self,
        url: Callable[[], str | None],
        lane: Lane,
        texts: Sequence[str],
        seed: int,
        *,
        item_of: Callable[[str], str],
    ) -> None:
        """Prepare.

        Args:
            url: where the gateway is now; None while it is away.
            lane: whose use case is asked for.
            texts: asked in turn, from the beginning again after the last.
            seed: of keys, pace and force.
            item_of: the item id of a text.
        """
        self._item_of = item_of
        self.received: list[Received] = []
        self._url = url
        self._lane = lane
        self._texts = texts
        self._seed = seed
        self._sent = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()  # nothing new is sent
        self._abandoned = threading.Event()  # nothing is tried again
        self._http = httpx.Client(timeout=_TIMEOUT_S, trust_env=False)
        self._threads = [
            threading.Thread(target=self._work, args=(Random(f"{seed}/{number}"),), daemon=True)
            for number in range(THREADS)
        ]

    def __enter__(self) -> Self:
        """Nothing is sent before `start`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; a request in hand is not tried again."""
        self._stop.set()
        self._abandoned.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_TIMEOUT_S)
        self._http.close()

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def finish(self, patience_s: float) -> None:
        """Send nothing new, and wait for what was sent.

        Raises:
            TimeoutError: a request was not over in time.
        """
        self._stop.set()
        deadline_s = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            message = f"requests were still in hand after {patience_s:.0f} s"
            raise TimeoutError(message)

    def ask(self, text: str, *, forced: bool = False) -> Received:
        """Ask until there is an answer, each time with the same key."""
        with self._lock:
            self._sent += 1
            key = f"kill/{self._seed}/{self._sent}"
        headers = {"Idempotency-Key": key} | ({"X-Understudy-Force": "teacher"} if forced else {})
        failures: list[str] = []
        deadline_s = time.monotonic() + _PATIENCE_S
        answer: dict[str, Any] = {}
        sent_s = time.monotonic()
        while not answer and time.monotonic() < deadline_s and not self._abandoned.is_set():
            sent_s = time.monotonic()
            try:
                answer = self._attempt(text, headers)
            except (httpx.HTTPError, ConnectionError) as error:
                failures.append(f"{type(error).__name__}: {error}")
                time.sleep(_AGAIN_S)
        received = Received(
            event_id=event_id_of_key(self._lane, key, self._item_of(text)),
            answered_id=answer.get("event_id"),
            served_by=answer.get("served_by"),
            version=answer.get("version"),
            sent_s=sent_s,
            failures=tuple(failures),
        )
        with self._lock:
            self.received.append(received)
        return received

    def _attempt(self, text: str, headers: dict[str, str]) -> dict[str, Any]:
        url = self._url()
        if url is None:
            message = "no gateway runs"
            raise ConnectionError(message)
        answer = self._http.post(
            f"{url}/v1/classify", json={"model": self._lane.use_case, "input": text}, headers=headers
        )
        answer.raise_for_status()
        datum: dict[str, Any] = answer.json()["data"][0]
        return datum

    def _work(self, rng: Random) -> None:
        gap_s = THREADS / RATE
        while not self._stop.wait(rng.uniform(0.5, 1.5) * gap_s):
            with self._lock:
                text = self._texts[self._sent % len(self._texts)]
            self.ask(text, forced=rng.random() < FORCED_RATIO)
