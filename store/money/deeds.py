"""What was done for a lane, in whole numbers that add up over processes and days."""

import msgspec


class Deeds(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one lane; dollars are in billionths, since one call may cost less than a millionth."""

    student: int = 0  # questions that the student answered
    teacher: int = 0  # questions that the teacher answered
    cached: int = 0  # texts answered with what was kept under their Idempotency-Key; in none of the other counts
    unanswered: int = 0  # questions that nobody answered
    refused: int = 0  # requests, and texts of one, that a busy gateway turned away with 429
    calls: int = 0  # of the teacher that were or may have been billed, audits not among them
    calls_nano_usd: int = 0
    audits: int = 0  # calls in the background, after the student's answer
    audits_nano_usd: int = 0
    judged: int = 0  # calls of a referee, in a gateway and in cycles: whether two answers say the same
    judged_nano_usd: int = 0
    judged_bounded_nano_usd: int = 0  # of these, what is an upper bound
    bounded: int = 0  # of both kinds of calls, those whose cost is an upper bound: the endpoint did not say
    bounded_nano_usd: int = 0
    chars: int = 0  # of the questions that student or teacher answered
    cycles: int = 0
    training_ms: int = 0  # of cycles, by the clock on the wall, failed ones included

    def __add__(self, other: "Deeds") -> "Deeds":
        """The sum, field by field."""
        return Deeds(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    @property
    def empty(self) -> bool:
        """Whether nothing was done."""
        return self == Deeds()


def call_of(usd: float, *, audit: bool = False, bounded: bool) -> Deeds:
    """One call of the teacher that was or may have been billed; `bounded`: by the most it can have cost."""
    cost = nano(usd)
    kind = Deeds(audits=1, audits_nano_usd=cost) if audit else Deeds(calls=1, calls_nano_usd=cost)
    return kind + Deeds(bounded=1, bounded_nano_usd=cost) if bounded else kind


def verdict_of(usd: float, *, bounded: bool) -> Deeds:
    """One call of a referee that was or may have been billed; as of `call_of`. It answers no question."""
    cost = nano(usd)
    return Deeds(judged=1, judged_nano_usd=cost, judged_bounded_nano_usd=cost if bounded else 0)


def nano(usd: float) -> int:
    """Dollars in billionths."""
    return round(usd * 1e9)
