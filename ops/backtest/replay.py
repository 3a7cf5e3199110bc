"""A log and its encoder, to be replayed over and over."""

import asyncio
import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ops.backtest.log import KEY, Log
from ops.backtest.play import Play
from ops.backtest.records import Answers, Ask, Run
from ops.backtest.stream import Stream, errors_alone
from ops.backtest.tasks.part import KeptFeatures
from ops.backtest.tasks.tasks import TASKS
from ops.sections import GateSection, SplitSection, TrainerSection
from ops.settings import Settings
from ops.wiring.train import cycle_settings, schedule_settings
from store.secrets import item_id
from store.student.encoder import FloatArray
from trainer.attempt import Attempt
from trainer.due import ScheduleSettings
from trainer.learn.features import BaseEncoder
from trainer.learn.tasks import TASKS as LEARNED
from trainer.work import CycleSettings

_DEFAULTS: Final = Settings.model_construct(
    trainer=TrainerSection(), split=SplitSection(salt="backtest"), gate=GateSection()
)
DEFAULT_CYCLE: Final = replace(cycle_settings(_DEFAULTS), quarantine_s=0.0)
DEFAULT_SCHEDULE: Final = schedule_settings(_DEFAULTS)


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
        self.base: BaseEncoder = LEARNED[log.task].recipe().base(self.cycle)
        self._cache = cache
        self._usd_per_call = usd_per_call
        self._part = TASKS[log.task]
        self._items = [item_id(KEY, log.rules, value) for value in log.values]
        self._kept = KeptFeatures(rows={})

    @property
    def features(self) -> FloatArray:
        """[rows of the log, any]."""
        return self._part.features(self.log, self._items, self._kept)

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compute every text's numbers, or read them from the cache; `progress(done, to do)`."""
        self._kept = self._part.embed(self.log, self._items, self.base.encoder, self._cache, progress)

    def sub(self, places: Sequence[int]) -> "Replay":
        """A replay of some of the log's rows, in this order; encoder and features are this one's."""
        if not self._kept.rows:
            self.prepare(lambda _done, _rows: None)
        part = copy.copy(self)
        part.log = self.log.sub(places)
        part._items = [self._items[place] for place in places]  # noqa: SLF001 - one of ours
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
        features, too_long = self.features, self._part.too_long(log, encoder)
        rules = log.rules
        return Stream(
            encoder=encoder,
            places=places,
            times_s=log.times_s,
            texts=[rules.words(log.values[place]) for place in places],
            values=[log.values[place] for place in places],
            labels=[log.labels[place] for place in places],
            item_ids=[self._items[place] for place in places],
            too_long=np.array([too_long[place] for place in places], np.bool_),
            features=features[places],
            kept=self._kept.rows,
        )
