"""Small conversations in tokens of a tiny decoder, for the tests of training."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch

from store.student.chat.decoder import Decoder
from tests.tiny_decoders import tiny_decoder
from trainer.learn.chat.training.cached import Lesson
from trainer.learn.chat.training.losses import Heard

ANSWERS = ("yes", "no", "ask again")


def decoder_in(folder: Path) -> Decoder:
    """A tiny one."""
    return Decoder.load(tiny_decoder(folder, seed=3), device="cpu", precision="fp32")


def lessons(decoder: Decoder, count: int, *, systems: Sequence[str] = ("Be short.",), seed: int = 0) -> list[Lesson]:
    """Questions of unlike lengths; the answer follows from their first letter."""
    rng, found = Random(seed), []
    for number in range(count):
        first = rng.choice("abc")
        asked = first + "".join(rng.choices("xyz ", k=rng.randint(1, 9)))
        messages = [
            {"role": "system", "content": systems[number % len(systems)]},
            {"role": "user", "content": asked},
        ]
        found.append(lesson(decoder, messages, ANSWERS["abc".index(first)]))
    return found


def lesson(decoder: Decoder, messages: Sequence[dict[str, str]], answer: str, weight: float = 1.0) -> Lesson:
    """One, of the text alone."""
    ids = decoder.template.answer_ids(answer)
    return Lesson(
        prompt=tuple(decoder.template.render(messages)),
        answer=tuple(ids),
        heard=Heard.written(torch.tensor(ids)),
        weight=weight,
    )
