"""A log and its encoder, to be replayed over and over."""

import asyncio
import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.play import Play
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.stream import Stream, errors_alone
from store.event import TextInput
from store.redact import redact
from store.secrets import item_id
from store.student.encoder import Encoder, FloatArray
from store.tasks.classify import ClassifyRules
from trainer.attempt import Attempt
from trainer.due import ScheduleSettings
from trainer.judge.gate import GateLimits
from trainer.learn.features import BaseEncoder, FeatureCache
from trainer.snapshot import SplitSettings
from trainer.work import CycleSettings

_KEY: Final = b"understudy backtest: no secret, the log is the user's own"
DEFAULT_CYCLE: Final = CycleSettings(
    encoder="minilm",
    device="auto",
    precision="auto",
    threads=1,
    max_tokens=256,
    seed=0,
    min_items_per_label=20,
    quarantine_s=0.0,
    novelty_quantile=0.99,
    split=SplitSettings(salt="backtest", calibrate_ratio=0.15, judge_ratio=0.15),
    limits=GateLimits(delta=0.02, min_rows=300),
)
DEFAULT_SCHEDULE: Final = ScheduleSettings(
    tick_s=1.0,
    every_s=86_400.0,
    min_new_labels=30,
    growth_ratio=0.04,
    fine_tune=True,
    fine_tune_growth_ratio=1.5,
    lease_s=15.0,
    cycle_timeout_s=21_600.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFeatures:
    """Features of the whole log by item, computed once."""

    rows: dict[str, FloatArray]

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:  # noqa: ARG002
        """See `trainer.attempt.Features`."""
        if not item_ids:
            return np.empty((0, encoder.feature_size), np.float32)
        return np.stack([self.rows[item] for item in item_ids])


class Replay:
    """A log and its encoder, ready to be run over and over."""

    def __init__(
        self,
        log: Log,
        *,
        encoder: str,
        cache: Path,
        threads: int = 1,
        usd_per_call: float = 0.0,
        cycle: CycleSettings = DEFAULT_CYCLE,
        schedule: ScheduleSettings = DEFAULT_SCHEDULE,
    ) -> None:
        """Load the encoder; `prepare` does the rest.

        Raises:
            SettingsError: there is no such encoder.
        """
        torch.set_num_threads(threads)
        self.log = log
        self.cycle = replace(cycle, encoder=encoder, threads=threads)
        self.schedule = schedule
        self.base = BaseEncoder.open(
            encoder, device=cycle.device, precision=cycle.precision, max_tokens=cycle.max_tokens
        )
        self._cache = FeatureCache(cache)
        self._usd_per_call = usd_per_call
        self._texts = [redact(text, _KEY) for text in log.texts]
        self._items = [item_id(_KEY, ClassifyRules(), TextInput(text=text)) for text in self._texts]
        self._kept = KeptFeatures(rows={})

    @property
    def features(self) -> FloatArray:
        """[rows of the log, features]."""
        return self._kept.features(self.base.encoder, self._items, self._texts)

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compute every row's features, or read them from the cache; `progress(rows computed, rows to compute)`."""
        found = self._cache.features(self.base.encoder, self._items, self._texts, progress=progress)
        self._kept = KeptFeatures(rows=dict(zip(self._items, found, strict=True)))

    def sub(self, places: Sequence[int]) -> "Replay":
        """A replay of some of the log's rows, in this order; encoder and features are this one's."""
        if not self._kept.rows:
            self.prepare(lambda _done, _rows: None)
        part = copy.copy(self)
        part.log = self.log.sub(places)
        part._texts = [self._texts[place] for place in places]  # noqa: SLF001 - one of ours
        part._items = [self._items[place] for place in places]  # noqa: SLF001 - as above
        return part

    def run(
        self,
        ask: Ask,
        progress: Callable[[int, int], None],
        promoted: Callable[[int, Attempt], None] = lambda _row, _made: None,
    ) -> tuple[Run, Answers]:
        """Replay the log once.

        Args:
            ask: budget, seed, policy.
            progress: told of (rows done, rows) now and then.
            promoted: told of each version: the row it serves from, and what it came out of.
        """
        if not self._kept.rows:
            self.prepare(lambda _done, _rows: None)
        try:
            with errors_alone():
                play = Play(
                    self.log,
                    self._stream(ask),
                    ask,
                    base=self.base,
                    features=self._kept,
                    cycle=self.cycle,
                    schedule=self.schedule,
                    usd_per_call=self._usd_per_call,
                    promoted=promoted,
                )
                return asyncio.run(play.play(progress))
        finally:
            gc.collect()  # a run's students hang in cycles, and are large

    def _stream(self, ask: Ask) -> Stream:
        log, encoder = self.log, self.base.encoder
        places: NDArray[np.int64] = np.arange(log.rows)
        if ask.shuffled and ask.seed > 0:
            places = np.random.default_rng(ask.seed).permutation(log.rows)
        texts = [self._texts[place] for place in places]
        items = [self._items[place] for place in places]
        return Stream(
            encoder=encoder,
            places=places,
            times_s=log.times_s,
            texts=texts,
            labels=[log.labels[place] for place in places],
            item_ids=items,
            tokens=encoder.tokenise(texts),
            too_long=np.array([encoder.too_long(text) for text in texts], np.bool_),
            features=self._kept.features(encoder, items, texts),
        )
