"""How fast a device's students read: measured over the last forward passes, and what may go into the next one."""

from typing import Final

from serve.student.line import Load

_PASS_SHARE: Final = 0.05  # of the time-out that one forward pass should take at most; slow students get small batches
_FORGET: Final = 0.8  # of what earlier passes took, with each new one


class ReadingPace:
    """Seconds a token, and tokens a question. Written by one thread; others may read a value that is a pass old."""

    def __init__(self, *, max_batch: int, max_tokens: int, timeout_s: float) -> None:
        """Know nothing yet; a forward pass should take a small share of `timeout_s`."""
        self._max_batch = max_batch
        self._max_tokens = max_tokens
        self._pass_s = _PASS_SHARE * timeout_s
        self._seconds, self._tokens, self._questions = 0.0, 0.0, 0.0  # of the last passes, the older the less

    @property
    def token_s(self) -> float:
        """What one token has taken of late, in seconds; 0 before the first."""
        return self._seconds / self._tokens if self._tokens else 0.0

    @property
    def load(self) -> Load:
        """What the next forward pass may have: as much as may be, and can be read in good time."""
        question_s = self._seconds / self._questions if self._questions else 0.0
        if question_s == 0.0:
            return Load(questions=self._max_batch, tokens=self._max_tokens)
        questions = max(1, min(self._max_batch, int(self._pass_s / question_s)))
        return Load(questions=questions, tokens=max(1.0, min(self._max_tokens, self._pass_s / self.token_s)))

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass that is as full as can be, by what questions have had of late."""
        each = self._tokens / self._questions if self._questions else 1.0
        return max(1, min(self._max_tokens, round(self._max_batch * each)))

    @property
    def turn(self) -> int:
        """Tokens of one request that go before the next one has its turn."""
        return max(1, self.batch_tokens // 2)

    def expect(self, token_s: float, *, tokens: float) -> None:
        """What a token will take, and how many a question has, until a forward pass has been measured."""
        if not self._questions:
            self._seconds, self._tokens, self._questions = token_s * tokens, tokens, 1.0

    def took(self, seconds: float, *, questions: int, tokens: int) -> None:
        """One forward pass is done."""
        self._seconds = _FORGET * self._seconds + seconds
        self._tokens = _FORGET * self._tokens + tokens
        self._questions = _FORGET * self._questions + questions
