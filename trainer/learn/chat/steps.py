"""The steps of a cycle of `chat`: a training on some rows, a student that knows them, and what it is trusted by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from store.registry.students.records import ChatRecord
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.neighbours import Neighbours, answer_key
from store.student.chat.trust import SIGNALS, Confidence
from store.tasks.chat import heard_text
from trainer.learn.chat.freezing import FrozenChats, chatter
from trainer.learn.chat.head import Outcomes, constant, fit_confidence
from trainer.learn.chat.training.fit import fit
from trainer.learn.chat.training.job import Tuning
from trainer.learn.halves import halves
from trainer.learn.recipe import Lineage, Rival
from trainer.snapshot import rows_of
from trainer.work import Tell, tell_nobody

_FEW_ROWS: Final = 400  # with fewer: more passes over them, in smaller batches
_ENOUGH_OUTCOMES: Final = 100  # to learn from what to trust
FEW: Final = Tuning(epochs=4, batch_rows=4, micro_rows=4)
MANY: Final = Tuning(epochs=2, batch_rows=8, micro_rows=8)
WARM: Final = Tuning(epochs=1, learning_rate=5e-4, batch_rows=8, micro_rows=8)


def tuning_of(rows: int, *, device: str, warm: bool = False) -> Tuning:
    """How so many answers are learned: on a GPU in all layers, with nothing kept."""
    found = WARM if warm else FEW if rows < _FEW_ROWS else MANY
    return replace(found, layers=None) if device == "cuda" else found


def trained_on(
    rows: FrozenChats,
    places: Sequence[int],
    start: Trained | None,
    *,
    part: str = "all",
    tell: Tell = tell_nobody,
) -> Trained:
    """The top layers, trained on these rows.

    Args:
        rows: of the cycle.
        places: of those that are learned.
        start: the champion's, to go on from.
        part: names what it can go on from when it is killed.
        tell: told how far it has come.
    """
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
        ranks=rows.ranks,
        preparing=lambda done: tell("embedding", done),
        progress=lambda done: tell("fine_tuning", done),
    )


def confidence_of(
    rows: FrozenChats, places: Sequence[int], lineage: Lineage, champion: Chatter | None, *, tell: Tell
) -> Confidence:
    """When to trust it, from what became of answers that nobody had trained for.

    Of the first version: each half of the rows is asked of a training on the other half; of many rows one half will do.
    Afterwards: opinions on record, and what the champion says to rows that it has not learned; while these are too few,
    the champion's own numbers stay.
    """
    if champion is None or lineage.champion is None:
        return fit_confidence(_crossed(rows, places, tell=tell), rows.terms.decide)
    recorded = {place: found for place in places if (found := _recorded(rows, place, lineage)) is not None}
    seen = seen_by(rows, lineage.champion)
    new = [place for place in places if rows.snapshot.rows[place].cluster not in seen and place not in recorded]
    outcomes = Outcomes.joined(
        _joined(rows, [(place, *one) for place, one in recorded.items()]), _asked(rows, champion, new)
    )
    if len(outcomes.agreed) < _ENOUGH_OUTCOMES:
        return champion.confidence
    return fit_confidence(outcomes, rows.terms.decide)


def _crossed(rows: FrozenChats, places: Sequence[int], *, tell: Tell) -> Outcomes:
    parts = []
    split = halves([rows.snapshot.rows[place].cluster for place in places])
    for number, half in enumerate(split[: 1 if len(places) >= _FEW_ROWS else 2]):
        held = [places[index] for index in half]
        others = sorted(set(places) - set(held)) or held  # a single question: there is nothing else
        trained = trained_on(rows, others, None, part=f"half-{number}", tell=tell)
        parts.append(_asked(rows, student_of(rows, trained, others, constant(0.5, len(SIGNALS))), held))
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


def student_of(
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
        neighbours=neighbours_of(rows, places),
        confidence=confidence,
        terms=rows.terms,
    )


def neighbours_of(rows: FrozenChats, places: Sequence[int]) -> Neighbours:
    """These rows' prompts with their newest answers."""
    said = [heard_text(rows.snapshot.rows[place].answers)[0] for place in places]
    vectors = rows.vectors[list(places)].astype(np.float16).astype(np.float32)  # as a gateway will read them
    return Neighbours(vectors=vectors, answers=[answer_key(one) for one in said])


def learned(rows: FrozenChats) -> list[int]:
    """Places of the rows that are learned from."""
    return [place for place in rows_of(rows.snapshot, "train") if rows.asked[place] is not None]


def seen_by(rows: FrozenChats, champion: Rival) -> set[int]:
    """Clusters of the rows that a version was trained on."""
    return {rows.snapshot.clusters[one] for one in champion.trained if one in rows.snapshot.clusters}


def on_this_base(rows: FrozenChats, champion: Rival | None) -> Chatter | None:
    """The champion, where what it was trained on is the base of this cycle."""
    found = chatter(champion.student) if champion is not None else None
    return found if found is not None and rows.shares_base(found) else None
