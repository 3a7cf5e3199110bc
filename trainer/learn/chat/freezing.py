"""How items of `chat` become rows, and what a student's answers to them are computed from."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from store.answers.top_logprobs import NO_TOKEN, unpack_top
from store.event import ChatInput, TaskInput
from store.near.link import Links, link
from store.near.neighbours import conflicts
from store.policy import Moment, Policy
from store.student.chat.chatter import Chatter
from store.student.chat.decoder import Decoder
from store.student.chat.generate import Asked, Generation, generate
from store.student.chat.neighbours import answer_key
from store.student.chat.trust import text_distances
from store.student.encoder import FloatArray
from store.student.loaded import ChatOpinion
from store.tasks.chat import ChatRules, ChatSaid, ChatTerms, form_of, heard_text, structure
from store.tasks.narrow import narrow
from store.tasks.rules import Dispute
from trainer.judge.calibrate import novelty_limit, uncertified
from trainer.judge.referee import Disputed, Verdicts
from trainer.judge.scored import Scored
from trainer.learn.chat.draft import BaseDecoder
from trainer.learn.chat.training.cached import Lesson
from trainer.learn.chat.training.fit import Ranks
from trainer.learn.chat.training.losses import ABSENT, Heard
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Student as AnyStudent
from trainer.snapshot import Row, Snapshot

Floats = npt.NDArray[np.float64]

_HEX_DIGITS: Final = 16
_NEVER: Final = -1.0  # confidence in an answer that no student gives
_INSTRUCTING: Final = ("system", "developer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFreezing:
    """Satisfies `trainer.snapshot.Freezing`: questions that differ by a typo and were answered alike are one."""

    rules: ChatRules = field(default_factory=ChatRules)

    def words(self, value: TaskInput) -> str:
        """What was said so far, instructions left out."""
        return self.rules.words(value)

    def label(self, answers: Mapping[str, int]) -> str:
        """A name of the different answers: equal for equal ones."""
        keys = sorted({answer_key(said) for said in heard_text(answers)})
        return keys[0] if len(keys) == 1 else hashlib.sha256("\0".join(keys).encode()).hexdigest()[:_HEX_DIGITS]

    def soft(self, answers: Mapping[str, int]) -> None:  # noqa: ARG002 - answers are no labels here
        """Answers are no labels."""
        return

    def conflicted(self, answers: Mapping[str, int]) -> bool:
        """Whether two answers are different JSON."""
        return self.rules.conflicted(answers)

    def links(self, rows: Sequence[Row]) -> Links:
        """Near-duplicates that were answered alike."""
        return link([row.words for row in rows], [row.label for row in rows])

    def labels(self, rows: Sequence[Row]) -> tuple[str, ...]:  # noqa: ARG002 - as the protocol has it
        """None."""
        return ()

    def learns(self, row: Row, labels: Collection[str]) -> bool:  # noqa: ARG002 - as the protocol has it
        """Whether its newest answer is a text."""
        said = heard_text(row.answers)[0]
        return bool(said.text.strip()) and not said.tool_calls


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenChats:
    """The snapshot with each row's prompt in tokens. Satisfies `trainer.learn.recipe.Frozen`."""

    snapshot: Snapshot
    base: BaseDecoder
    encoder: BaseEncoder  # the small one
    vectors: FloatArray  # [rows, hidden] of length 1, of the small encoder
    asked: Sequence[Asked | None]  # one a row; None: no student on this base is asked
    rules: ChatRules
    terms: ChatTerms
    target: float
    confidence: float
    novelty_quantile: float
    seed: int
    folder: Path | None  # for the decoder's states and checkpoints; None: nothing is kept
    ranks: Ranks | None = None  # that a decoder is trained on; None: this process alone
    verdicts: Verdicts = field(default_factory=Verdicts, repr=False)
    _said: WeakKeyDictionary[Decoder, dict[int, Generation]] = field(default_factory=WeakKeyDictionary, repr=False)

    def topics_from(self) -> tuple[FloatArray, list[str]]:
        """Topics are of what was asked."""
        return self.vectors, [row.words for row in self.snapshot.rows]

    def conflicts(self) -> list[tuple[int, int]]:
        """By the vectors, among answers that are JSON: two texts may differ and say the same."""
        rows = self.snapshot.rows
        places = [
            place for place, row in enumerate(rows) if all(structure(one.text) for one in heard_text(row.answers))
        ]
        words, labels = [rows[place].words for place in places], [rows[place].label for place in places]
        return [(places[one], places[other]) for one, other in conflicts(self.vectors[places], words, labels)]

    def start(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Policy:
        """A novelty limit; the confidence is a chance already."""
        scored = self.scored(student, places, weights)
        asked = np.flatnonzero(scored.confidence != _NEVER)
        if not len(asked):
            return uncertified(self.target, self.confidence)
        novelty = scored.novelty[asked]
        limit = novelty_limit(novelty, weights[asked], self.novelty_quantile)
        return uncertified(self.target, self.confidence, novelty_threshold=limit)

    def scored(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Scored:
        """What judges read of a student; a question that it is never asked agrees with nothing."""
        said = dict(zip(places, self.opinions(chatter(student), places), strict=True))
        given = [(place, one.output) for place, one in said.items() if one is not None]
        agreed = dict(zip([place for place, _ in given], self.agreed(given), strict=True))
        rows = [self.snapshot.rows[place] for place in places]
        return Scored(
            confidence=np.array([_NEVER if one is None else one.confidence for one in said.values()], np.float64),
            novelty=np.array([0.0 if one is None else one.novelty for one in said.values()], np.float64),
            agreed=np.array([agreed.get(place) or 0.0 for place in said]),
            weight=weights,
            cluster=np.array([row.cluster for row in rows], np.int64),
        )

    def early(self, student: AnyStudent, places: Sequence[int], weights: Floats) -> Mapping[Moment, Scored]:
        """See `trainer.learn.recipe.Frozen`."""
        talker = chatter(student)
        if not talker.moments:
            return {}
        whole, said = self.scored(student, places, weights), self.opinions(talker, places)
        return {
            moment: replace(
                whole,
                confidence=np.array([_NEVER if one is None else one.early[moment].confidence for one in said]),
            )
            for moment in talker.moments
        }

    def agreed(self, said: Sequence[tuple[int, str]], *, half: bool = False) -> list[float | None]:
        """Share of the teacher's answers to each row that an output agrees with; the referee is asked for all at once.

        None where the referee did not get to it: who judges takes that for no agreement, and nobody learns from it.

        Args:
            said: places of rows, each with what a student says to it.
            half: see `Verdicts.of`.
        """
        ruled = [self._ruled(place, output) for place, output in said]
        disputes = [
            (place, one) for (place, _), row in zip(said, ruled, strict=True) for one in row if isinstance(one, Dispute)
        ]
        judged = iter(self.verdicts.of(self._disputed(disputes), half=half))
        found = [[next(judged) if isinstance(one, Dispute) else one for one in row] for row in ruled]
        return [None if None in row else float(np.mean(np.array(row, bool))) for row in found]

    def _ruled(self, place: int, output: str) -> list[bool | Dispute]:
        """What rules tell of an output and each answer to a row; a verdict on record of the same words counts."""
        row = self.snapshot.rows[place]
        first = row.first_opinion.opinion if row.first_opinion is not None else None
        if first is not None and first.verdict is not None and first.output == output:
            return [first.verdict.agreed]
        return [self.rules.disputed_by(answer, output) or self.rules.agree(answer, output) for answer in row.answers]

    def _disputed(self, disputes: Sequence[tuple[int, Dispute]]) -> list[Disputed]:
        if not disputes:
            return []
        rows = [self.snapshot.rows[place] for place, _ in disputes]
        far = text_distances(
            self.encoder.encoder, [one.teacher for _, one in disputes], [one.student for _, one in disputes]
        )
        return [
            Disputed(question=row.input, parts=self.rules.parts(row.input), dispute=one, distance=float(distance))
            for row, (_, one), distance in zip(rows, disputes, far, strict=True)
        ]

    def opinions(self, student: Chatter, places: Sequence[int]) -> list[ChatOpinion | None]:
        """A student's opinions of some rows. No answer is computed twice for one decoder."""
        wanted = [
            place
            for place in places
            if self.asked[place] is not None and student.supports(self.snapshot.rows[place].input)
        ]
        inputs = [chat_input(self.snapshot.rows[place].input) for place in wanted]
        if not self.shares_base(student):
            found = dict(zip(wanted, student.look(inputs), strict=True)) if wanted else {}
        else:
            said = self._answers(student.decoder, wanted)
            vectors = self.vectors[wanted]
            found = dict(zip(wanted, student.opinions([said[place] for place in wanted], vectors), strict=True))
        return [found.get(place) for place in places]

    def shares_base(self, student: Chatter) -> bool:
        """Whether a student stands on this cycle's decoder and encoder."""
        return (
            student.base_fingerprint == self.base.decoder.fingerprint
            and student.encoder.fingerprint == self.encoder.encoder.fingerprint
        )

    def lesson(self, place: int) -> Lesson:
        """A row of the train split as it is learned: its newest answer."""
        row, asked = self.snapshot.rows[place], self.asked[place]
        if asked is None:
            message = "nobody learns from what no student is asked"
            raise ValueError(message)
        said = heard_text(row.answers)[0]
        ids = self.newest_ids(place)
        heard = heard_of(said, ids, tokenizer=self.base.tokenizer)
        return Lesson(prompt=tuple(asked.ids), answer=tuple(ids), heard=heard, weight=row.weight)

    def forms(self, places: Sequence[int], least: int) -> list[str]:
        """Forms of answers, beside texts, that so many of these rows ask for at least."""
        found = Counter(form_of(chat_input(self.snapshot.rows[place].input).shape) for place in places)
        return sorted(form for form, count in found.items() if form is not None and count >= least)

    def newest_ids(self, place: int) -> list[int]:
        """A row's newest answer as this base writes it, the end included."""
        return self.base.decoder.template.answer_ids(heard_text(self.snapshot.rows[place].answers)[0].text)

    def begins(self, place: int) -> str:
        """What a row's prompt begins with: rows of one name may share it."""
        first = chat_input(self.snapshot.rows[place].input).messages[0]
        return first.content if first.role in _INSTRUCTING else ""

    def _answers(self, decoder: Decoder, places: Sequence[int]) -> dict[int, Generation]:
        """A decoder's greedy answers; where one pass shows that it would write the teacher's text, it has done so."""
        known = self._said.setdefault(decoder, {})
        new = {place: asked for place in places if place not in known and (asked := self.asked[place]) is not None}
        answers = {
            place: decoder.template.answer_ids(heard_text(self.snapshot.rows[place].answers)[0].text) for place in new
        }
        fitting = [place for place in new if len(answers[place]) <= new[place].limit and not new[place].stops]
        scores = decoder.teacher_forced([new[place].ids for place in fitting], [answers[place] for place in fitting])
        agrees = scores.agrees([answers[place] for place in fitting])
        for place, logprobs, is_same in zip(fitting, scores.logprobs, agrees, strict=True):
            if is_same:
                ids = answers[place]
                text = decoder.template.text_of(ids[:-1])
                known[place] = Generation(new[place], ids, logprobs, text, "stop")
        rest = [place for place in new if place not in known]
        known.update(zip(rest, generate(decoder, [new[place] for place in rest]), strict=True))
        return known


def heard_of(said: ChatSaid, answer: Sequence[int], *, tokenizer: str) -> Heard:
    """What a teacher said at each token of its answer: its distribution only where its tokens are the student's.

    Vocabularies are compared by what numbers the tokens, never by size; and the tokens must be those that the student
    writes the text with. The end, which the teacher's table may lack, is then of the text alone.

    Args:
        said: the answer.
        answer: its ids, the end included.
        tokenizer: sha256 of the student's tokenizer.json.
    """
    written = Heard.written(torch.tensor(answer))
    if said.top is None or said.top.tokenizer != tokenizer:
        return written
    ids, logprobs = unpack_top(said.top)
    count = len(ids)
    if not 0 < count <= len(answer) or ids[:, 0].tolist() != list(answer[:count]):
        return written
    all_ids = torch.full((len(answer), ids.shape[1]), ABSENT)
    all_logprobs = torch.full(all_ids.shape, -torch.inf)
    all_ids[:, 0] = written.ids[:, 0]
    all_ids[:count] = torch.from_numpy(np.where(ids == NO_TOKEN, ABSENT, ids))
    all_logprobs[:count] = torch.from_numpy(logprobs)
    return Heard(ids=all_ids, logprobs=all_logprobs)


def chatter(student: object) -> Chatter:
    """A student, as one of `chat`.

    Raises:
        TypeError: it is another task's: the lane's versions are mixed up.
    """
    return narrow(student, Chatter, "a cycle of chat")


def chat_input(value: TaskInput) -> ChatInput:
    """An input, as one of `chat`.

    Raises:
        TypeError: it is another task's.
    """
    return narrow(value, ChatInput, "a cycle of chat")
