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
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter, asked_of
from store.student.chat.decoder import Decoder
from store.student.chat.neighbours import Neighbours, answer_key
from store.student.chat.trust import SIGNALS, Confidence
from store.student.encoder import Encoder, FloatArray, Precision
from store.tasks.chat import ChatRules, heard_text
from trainer.judge.referee import Verdicts
from trainer.judge.scored import Scored
from trainer.learn.chat.draft import BaseDecoder, ChatDraft
from trainer.learn.chat.fit import Tuning, fit
from trainer.learn.chat.freezing import ChatFreezing, FrozenChats, chat_input, chatter
from trainer.learn.chat.head import Outcomes, constant, fit_confidence
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import SENTENCES, BaseEncoder, FeatureCache, Telling
from trainer.learn.halves import halves
from trainer.learn.recipe import CrossFitted, Features, Frozen, Lineage, Rival
from trainer.learn.recipe import Student as AnyStudent
from trainer.snapshot import Snapshot, rows_of
from trainer.work import CycleSettings, LaneTraining, Tell, tell_nobody

Floats = npt.NDArray[np.float64]

_FEW_ROWS: Final = 400  # with fewer: more passes over them, in smaller batches
_ENOUGH_OUTCOMES: Final = 100  # to learn from what to trust
FEW: Final = Tuning(epochs=4, batch_rows=4, micro_rows=4)
MANY: Final = Tuning(epochs=2, batch_rows=8, micro_rows=8)
WARM: Final = Tuning(epochs=1, learning_rate=5e-4, batch_rows=8, micro_rows=8)


class ChatRecipe:
    """Satisfies `trainer.learn.recipe.Recipe`."""

    def freezing(self, training: LaneTraining, settings: CycleSettings, champion: AnyStudent | None) -> ChatFreezing:  # noqa: ARG002 - as the protocol has it
        """Questions that differ by a typo and were answered alike are one."""
        return ChatFreezing(rules=_rules(training))

    def base(self, settings: CycleSettings) -> BaseEncoder:
        """The small encoder, any; the decoder is opened where rows are frozen."""
        return BaseEncoder.open(
            settings.encoder, device=settings.device, precision=settings.precision, max_tokens=settings.max_tokens
        )

    def cache(self, folder: Path, tell: Tell) -> Features:
        """Vectors of the small encoder by item; a folder for the decoder's states beside them."""
        return Kept(Telling(FeatureCache.of(folder / "sentences", SENTENCES), tell), folder / "decoder")

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
        base_decoder, rows = _base(settings), snapshot.rows
        return FrozenChats(
            snapshot=snapshot,
            base=base_decoder,
            encoder=base,
            vectors=features.features(base.encoder, [row.item_id for row in rows], [row.words for row in rows]),
            asked=[asked_of(base_decoder.decoder, chat_input(row.input), training.terms.chat) for row in rows],
            rules=_rules(training),
            terms=training.terms.chat,
            target=training.target,
            confidence=training.confidence,
            novelty_quantile=settings.novelty_quantile,
            seed=settings.seed,
            folder=features.folder if isinstance(features, Kept) else None,
            verdicts=Verdicts(
                entry=training.referee, folder=features.folder.parent if isinstance(features, Kept) else None
            ),
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
        places = _learned(rows)
        if not places:
            message = "no conversation was answered yet that a student could learn from: wait for more answers"
            raise NotEnoughLabelsError(message)
        champion = _on_this_base(rows, lineage.champion)
        if kind == "fine_tune":
            start = champion.trained if champion is not None else None
            trained = _trained(rows, places, start, tell=tell)
            mode: Mode = "fresh" if start is None else "warm"
            adapted, tuned_rows = trained.on(rows.base.decoder), len(places)
        elif champion is not None:
            trained, mode, adapted = champion.trained, "kept", champion.decoder
            tuned_rows = champion.tuned_rows or 0
        else:
            message = "no version on this base serves yet, and a head alone answers nothing: start a fine-tuning"
            raise NotEnoughLabelsError(message)
        tell("fitting", None)
        return ChatDraft(
            kind="fine_tune" if kind == "fine_tune" else "head",
            base=rows.base,
            encoder=rows.encoder,
            trained=trained,
            adapted=adapted,
            neighbours=_neighbours(rows, places),
            confidence=fit_confidence(_outcomes(rows, places, lineage, champion, tell=tell)),
            record=ChatRecord(
                tokenizer=rows.base.tokenizer,
                template=rows.base.template,
                layers=rows.base.decoder.stack.layers - trained.first,
                rank=trained.rank,
                max_prompt_tokens=rows.terms.max_prompt_tokens,
                max_answer_tokens=rows.terms.max_answer_tokens,
                signals=list(SIGNALS),
                decide=rows.terms.decide,
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
        seen = _seen(rows, champion)
        before = _on_this_base(rows, champion)

        def scored(places: Sequence[int], weights: Floats) -> Scored:
            if any(rows.snapshot.rows[place].cluster in seen for place in places):
                message = "only rows that are new to the champion are cross-fitted"
                raise ValueError(message)
            confidence, novelty, agreed = (np.empty(len(places)) for _ in range(3))
            for number, part in enumerate(halves([rows.snapshot.rows[place].cluster for place in places])):
                held = [places[index] for index in part]
                others = sorted(set(_learned(rows)) - set(held))
                if own.kind == "head" and before is not None:  # its adapter has seen none of them
                    student = _student(rows, before.trained, others, own.confidence, decoder=before.decoder)
                else:
                    start = before.trained if before is not None else None
                    trained = _trained(rows, others, start, part=f"crossed-{number}")
                    student = _student(rows, trained, others, own.confidence)
                one = rows.scored(student, held, weights[part])
                confidence[part], novelty[part], agreed[part] = one.confidence, one.novelty, one.agreed
            cluster = np.array([rows.snapshot.rows[place].cluster for place in places], np.int64)
            return Scored(confidence=confidence, novelty=novelty, agreed=agreed, weight=weights, cluster=cluster)

        return scored


RECIPE: Final = ChatRecipe()


def tuning_of(rows: int, *, device: str, warm: bool = False) -> Tuning:
    """How so many answers are learned: on a GPU in all layers, with nothing kept."""
    found = WARM if warm else FEW if rows < _FEW_ROWS else MANY
    return replace(found, layers=None) if device == "cuda" else found


def _trained(
    rows: FrozenChats,
    places: Sequence[int],
    start: Trained | None,
    *,
    part: str = "all",
    tell: Tell = tell_nobody,
) -> Trained:
    """The top layers, trained on these rows."""
    decoder = rows.base.decoder
    tuning = tuning_of(len(places), device=decoder.stack.device.type, warm=start is not None)
    weight = float(np.mean([rows.snapshot.rows[place].weight for place in places]))
    lessons = [rows.lesson(place) for place in places]
    return fit(
        decoder,
        [replace(one, weight=one.weight / weight) for one in lessons],
        [rows.begins(place) for place in places],
        start=start,
        settings=tuning,
        seed=rows.seed,
        folder=rows.folder,
        part=part,
        progress=lambda done: tell("fine_tuning", done),
    )


def _outcomes(
    rows: FrozenChats, places: Sequence[int], lineage: Lineage, champion: Chatter | None, *, tell: Tell
) -> Outcomes:
    """What became of answers that nobody had trained for.

    Earlier versions' on record; of those that a champion has not learned, and was not asked, what it says to them now;
    and where these are too few, of each half what a training on the other half says. Of many rows one half will do.
    """
    found = {place: one for place in places if (one := _recorded(rows, place, lineage)) is not None}
    recorded = set(found)
    parts = [_joined(rows, [(place, *one) for place, one in found.items()])]
    if champion is not None and lineage.champion is not None:
        seen = _seen(rows, lineage.champion)
        new = [place for place in places if rows.snapshot.rows[place].cluster not in seen and place not in recorded]
        parts.append(_asked(rows, champion, new))
    if sum(len(one.agreed) for one in parts) >= min(_ENOUGH_OUTCOMES, len(places)):
        return Outcomes.joined(*parts)
    split = halves([rows.snapshot.rows[place].cluster for place in places])
    for number, half in enumerate(split[: 1 if len(places) >= _FEW_ROWS else 2]):
        held = [places[index] for index in half]
        others = sorted(set(places) - set(held)) or held  # a single question: there is nothing else
        trained = _trained(rows, others, None, part=f"half-{number}", tell=tell)
        parts.append(_asked(rows, _student(rows, trained, others, constant(0.5, len(SIGNALS))), held))
    return Outcomes.joined(*parts)


def _asked(rows: FrozenChats, student: Chatter, places: Sequence[int]) -> Outcomes:
    """What a student that has not learned these rows says to them."""
    said = [(place, one) for place, one in zip(places, rows.opinions(student, places), strict=True) if one is not None]
    return _joined(rows, [(place, one.members[0], one.output) for place, one in said])


def _recorded(rows: FrozenChats, place: int, lineage: Lineage) -> tuple[Sequence[float], str] | None:
    """Signals and words of the opinion that a version gave before the teacher was asked, if they are today's."""
    first = rows.snapshot.rows[place].first_opinion
    record = lineage.records.get(first.opinion.version) if first is not None else None
    if first is None or not isinstance(record, ChatRecord) or len(first.opinion.members) != 1:
        return None
    if (record.signals, record.decide) != (list(SIGNALS), rows.terms.decide):
        return None
    signals = first.opinion.members[0]
    return (signals, first.opinion.output) if len(signals) == len(SIGNALS) else None


def _joined(rows: FrozenChats, said: Sequence[tuple[int, Sequence[float], str]]) -> Outcomes:
    """What became of outputs, each with its row's place and its signals; what nobody judged is left out."""
    agreed = rows.agreed([(place, output) for place, _, output in said], half=True)
    known = [(place, signals, one) for (place, signals, _), one in zip(said, agreed, strict=True) if one is not None]
    return Outcomes(
        signals=np.array([signals for _, signals, _ in known], np.float64).reshape(-1, len(SIGNALS)),
        agreed=np.array([one for _, _, one in known], np.float64),
        weight=np.array([rows.snapshot.rows[place].mass for place, _, _ in known], np.float64),
    )


def _student(
    rows: FrozenChats,
    trained: Trained,
    places: Sequence[int],
    confidence: Confidence,
    *,
    decoder: Decoder | None = None,
) -> Chatter:
    """A student that knows these rows alone."""
    return Chatter(
        decoder=decoder or trained.on(rows.base.decoder),
        base_fingerprint=rows.base.decoder.fingerprint,
        trained=trained,
        encoder=rows.encoder.encoder,
        neighbours=_neighbours(rows, places),
        confidence=confidence,
        terms=rows.terms,
    )


def _neighbours(rows: FrozenChats, places: Sequence[int]) -> Neighbours:
    said = [heard_text(rows.snapshot.rows[place].answers)[0] for place in places]
    vectors = rows.vectors[list(places)].astype(np.float16).astype(np.float32)  # as a gateway will read them
    return Neighbours(vectors=vectors, answers=[answer_key(one) for one in said])


def _learned(rows: FrozenChats) -> list[int]:
    """Places of the rows that are learned from."""
    return [place for place in rows_of(rows.snapshot, "train") if rows.asked[place] is not None]


def _seen(rows: FrozenChats, champion: Rival) -> set[int]:
    return {rows.snapshot.clusters[one] for one in champion.trained if one in rows.snapshot.clusters}


def _on_this_base(rows: FrozenChats, champion: Rival | None) -> Chatter | None:
    """The champion, where what it was trained on is the base of this cycle."""
    found = chatter(champion.student) if champion is not None else None
    return found if found is not None and rows.shares_base(found) else None


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

    def features(self, encoder: Encoder, item_ids: Sequence[str], texts: Sequence[str]) -> FloatArray:
        """See `trainer.learn.recipe.Features`."""
        return self.sentences.features(encoder, item_ids, texts)


def _base(settings: CycleSettings) -> BaseDecoder:
    """The lane's decoder.

    Raises:
        SettingsError: none is named.
    """
    if settings.model is None:
        message = "lanes.student.model: name a decoder's folder, or smollm2: nothing else can chat"
        raise SettingsError(message)
    return _loaded(settings.model, settings.device, settings.precision)


@functools.cache
def _loaded(model: str, device: str, precision: Precision) -> BaseDecoder:
    """Loaded once in this process."""
    return BaseDecoder.open(model, device=device, precision=precision)


def frozen_chats(frozen: object) -> FrozenChats:
    """Frozen rows, as those of `chat`.

    Raises:
        TypeError: they are another task's.
    """
    if not isinstance(frozen, FrozenChats):
        message = f"a {type(frozen).__name__} in a cycle of chat"
        raise TypeError(message)
    return frozen


def drafted(draft: object) -> ChatDraft:
    """A draft, as one of `chat`.

    Raises:
        TypeError: it is another task's.
    """
    if not isinstance(draft, ChatDraft):
        message = f"a {type(draft).__name__} in a cycle of chat"
        raise TypeError(message)
    return draft
