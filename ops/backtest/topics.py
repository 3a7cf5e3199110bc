"""Which topics of a log stayed hard: how much of each still went to the teacher in the last half."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ops.backtest.log import Log
from ops.backtest.records import Answers, HardTopic
from store.buffer.topics import find_topics
from store.redact import redact

_SHOWN: Final = 12
_KEY: Final = b"understudy backtest: names of topics are shown to people"


def hard_topics(log: Log, features: NDArray[np.float32], answers: Answers) -> list[HardTopic]:
    """Topics by the share that was escalated in the second half of a run, hardest first.

    Args:
        log: the log.
        features: [rows of the log, any], of the encoder's last layer.
        answers: of one run.
    """
    half = len(answers.rows) // 2
    places = answers.rows[half:]
    found = find_topics(
        features[places],
        [redact(log.texts[place], _KEY) for place in places],
        [1.0] * len(places),
        answers.by_teacher[half:].astype(float).tolist(),
        seed=0,
    )
    student = np.array(answers.student[half:], object)
    teacher = np.array([log.labels[place] for place in places], object)
    own = ~answers.by_teacher[half:] & (student != "")
    result = []
    for number, topic in enumerate(found.topics):
        mask = found.of_row == number
        kept = mask & own & (teacher != None)  # noqa: E711 - element by element
        result.append(
            HardTopic(
                name=topic.name,
                rows=int(mask.sum()),
                escalated_ratio=float(answers.by_teacher[half:][mask].mean()) if mask.any() else 0.0,
                agreement=float((student[kept] == teacher[kept]).mean()) if kept.any() else None,
            )
        )
    return sorted(result, key=lambda topic: (-topic.escalated_ratio, topic.name))[:_SHOWN]
