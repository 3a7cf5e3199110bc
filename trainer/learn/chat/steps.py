"""The steps of a cycle of `chat`: a training on some rows, a student that knows them, and what it is trusted by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from store.policy import Decide
from store.registry.students.records import ChatRecord
from store.student.chat.adapter import Trained
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.neighbours import Neighbours, answer_key, opening_key
from store.student.chat.stack import Stack
from store.student.chat.trust import EARLY_SIGNALS, SIGNALS, Confidence, Early
from store.tasks.chat import heard_text
from trainer.learn.chat.freezing import FrozenChats, chatter
from trainer.learn.chat.head import Outcomes, constant, deciding_tokens, fit_confidence, unfitted
from trainer.learn.chat.training.fit import fit
from trainer.learn.chat.training.job import Tuning
from trainer.learn.halves import halves
from trainer.learn.recipe import Lineage, Rival
from trainer.snapshot import rows_of
from trainer.work import Tell, tell_nobody

_FEW_ROWS: Final = 400  # with fewer: more passes over them, in smaller batches
_WIDTH: Final = 576  # of the decoder that the rate was measured with
_ENOUGH_OUTCOMES: Final = 100  # to learn from what to trust
FEW: Final = Tuning(epochs=4, learning_rate=2e-3, batch_rows=4, micro_rows=4)
MANY: Final = Tuning(epochs=2, learning_rate=3e-3, batch_rows=8, micro_rows=8)
WARM: Final = replace(MANY, epochs=1, learning_rate=1.5e-3)


def tuning_of(rows: int, *, stack: Stack, warm: bool = False) -> Tuning:
    """How so many answers are learned: on a GPU in all layers, with nothing kept.

    Wider decoders want a lower rate, in inverse proportion to their width (Yang et al. 2022, "Tensor Programs V").
    """
    found = WARM if warm else FEW if rows < _FEW_ROWS else MANY
    rate = found.learning_rate * min(1.0, _WIDTH / stack.hidden_size)
    return replace(found, learning_rate=rate, layers=None if stack.device.type == "cuda" else found.layers)


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
    tuning = tuning_of(len(places), stack=decoder.stack, warm=start is not None)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Said:
    """What a student that had not learned a row said to it, and what became of that."""

    place: int
    output: str
    signals: Mapping[Decide, Sequence[float]]  # by when they are known
    agreed: float = 0.0


def trust_of(
    rows: FrozenChats, places: Sequence[int], lineage: Lineage, champion: Chatter | None, *, tell: Tell
) -> tuple[Confidence, Early | None]:
    """When to trust it, with its answer whole and before, from what became of answers that nobody had trained for.

    Of the first version: each half of the rows is asked of a training on the other half; of many rows one half will do.
    Afterwards: opinions on record, and what the champion says to rows that it has not learned; while these are too few,
    the champion's own numbers stay. What is on record says nothing of the moments before, so a lane that decides then
    has the champion asked those rows, too.
    """
    tokens = deciding_tokens([rows.newest_ids(place) for place in places])
    if champion is None or lineage.champion is None:
        said = _judged(rows, _crossed(rows, places, tokens, tell=tell))
        return fit_confidence(_outcomes(rows, said, "end")), _heads(rows, said, tokens)
    seen = seen_by(rows, lineage.champion)
    fresh = [place for place in places if rows.snapshot.rows[place].cluster not in seen]
    recorded = [found for place in places if (found := _recorded(rows, place, lineage)) is not None]
    known = {one.place for one in recorded} if rows.terms.decide == "end" else set()
    asked = _asked(rows, champion, [place for place in fresh if place not in known])
    knows = [place for place in places if rows.snapshot.rows[place].cluster in seen]
    alike = student_of(
        rows, champion.trained, knows, champion.confidence, early=unfitted(tokens), decoder=champion.decoder
    )
    early = {one.place: one.signals for one in _asked(rows, alike, [one.place for one in asked])}
    twice = {one.place for one in recorded}
    said = _judged(rows, [*recorded, *(replace(one, signals={**early[one.place], **one.signals}) for one in asked)])
    ends = [one for one in said if one.place not in twice or one.signals.keys() == {"end"}]
    sure = [one for one in said if one.signals.keys() > {"end"}]
    return (
        fit_confidence(_outcomes(rows, ends, "end")) if len(ends) >= _ENOUGH_OUTCOMES else champion.confidence,
        _heads(rows, sure, tokens) if len(sure) >= _ENOUGH_OUTCOMES else champion.early,
    )


def _heads(rows: FrozenChats, said: Sequence[_Said], tokens: int) -> Early:
    return Early(tokens=tokens, heads={name: fit_confidence(_outcomes(rows, said, name)) for name in EARLY_SIGNALS})


def _crossed(rows: FrozenChats, places: Sequence[int], tokens: int, *, tell: Tell) -> list[_Said]:
    found: list[_Said] = []
    split = halves([rows.snapshot.rows[place].cluster for place in places])
    for number, half in enumerate(split[: 1 if len(places) >= _FEW_ROWS else 2]):
        held = [places[index] for index in half]
        others = sorted(set(places) - set(held)) or held  # a single question: there is nothing else
        trained = trained_on(rows, others, None, part=f"half-{number}", tell=tell)
        student = student_of(rows, trained, others, constant(0.5, len(SIGNALS)), early=unfitted(tokens))
        found += _asked(rows, student, held)
    return found


def _asked(rows: FrozenChats, student: Chatter, places: Sequence[int]) -> list[_Said]:
    """What a student that has not learned these rows says to them."""
    opinions = zip(places, rows.opinions(student, places), strict=True)
    return [
        _Said(
            place=place,
            output=one.output,
            signals={"end": one.members[0], **{name: view.signals for name, view in one.early.items()}},
        )
        for place, one in opinions
        if one is not None
    ]


def _recorded(rows: FrozenChats, place: int, lineage: Lineage) -> _Said | None:
    """Signals and words of the opinion that a version gave before the teacher was asked, if they are today's."""
    first = rows.snapshot.rows[place].first_opinion
    record = lineage.records.get(first.opinion.version) if first is not None else None
    if first is None or not isinstance(record, ChatRecord) or len(first.opinion.members) != 1:
        return None
    signals = first.opinion.members[0]
    if record.signals != list(SIGNALS) or len(signals) != len(SIGNALS):
        return None
    return _Said(place=place, output=first.opinion.output, signals={"end": signals})


def _judged(rows: FrozenChats, said: Sequence[_Said]) -> list[_Said]:
    """What became of outputs; what nobody judged is left out."""
    agreed = rows.agreed([(one.place, one.output) for one in said], half=True)
    return [replace(one, agreed=found) for one, found in zip(said, agreed, strict=True) if found is not None]


def _outcomes(rows: FrozenChats, said: Sequence[_Said], moment: Decide) -> Outcomes:
    """What is known at a moment, with what became of it."""
    width = len(SIGNALS if moment == "end" else EARLY_SIGNALS[moment])
    return Outcomes(
        signals=np.array([one.signals[moment] for one in said], np.float64).reshape(-1, width),
        agreed=np.array([one.agreed for one in said], np.float64),
        weight=np.array([rows.snapshot.rows[one.place].mass for one in said], np.float64),
    )


def student_of(
    rows: FrozenChats,
    trained: Trained,
    places: Sequence[int],
    confidence: Confidence,
    *,
    early: Early | None,
    decoder: Decoder | None = None,
) -> Chatter:
    """A student that knows these rows alone."""
    return Chatter(
        decoder=decoder or trained.on(rows.base.decoder),
        base_fingerprint=rows.base.decoder.fingerprint,
        trained=trained,
        encoder=rows.encoder.encoder,
        neighbours=neighbours_of(rows, places, early),
        confidence=confidence,
        early=early,
        terms=rows.terms,
    )


def neighbours_of(rows: FrozenChats, places: Sequence[int], early: Early | None) -> Neighbours:
    """These rows' prompts with their newest answers."""
    said = [heard_text(rows.snapshot.rows[place].answers)[0] for place in places]
    vectors = rows.vectors[list(places)].astype(np.float16).astype(np.float32)  # as a gateway will read them
    tokens = 0 if early is None else early.tokens
    return Neighbours(
        vectors=vectors,
        answers=[answer_key(one) for one in said],
        openings=[opening_key(rows.newest_ids(place)[:tokens]) for place in places] if tokens else [],
    )


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
