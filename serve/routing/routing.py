"""What a policy has to know and say, and which policies there are: chosen once for a lane, asked once a question."""

from collections.abc import Callable
from typing import Literal, Protocol

from serve.settings import BudgetSettings
from store.policy import BudgetView, Decision, Policy
from store.student.loaded import Opinion

Required = Literal["forced", "too_long", "unsupported"]  # to the teacher, whatever the student says
Choice = Callable[[BudgetView], Decision]


class Routing(Protocol):
    """One lane's way of deciding who answers."""

    @property
    def promises(self) -> bool:
        """Whether there is a promise that a budget which binds suspends."""

    def see(self, opinion: Opinion, version: str) -> None:
        """Hear what the student of a version makes of a question, whoever will answer it."""

    def choose(
        self,
        policy: Policy | None,
        opinion: Opinion | None,
        *,
        cold: bool,
        audit_ratio: float,
        draw: float,
        required: Required | None,
    ) -> Choice:
        """Who answers one question, as a function of what may still be spent. Asked once a question: it is counted.

        Args:
            policy: the serving version's.
            opinion: the student's, None where it has none.
            cold: no version serves.
            audit_ratio: share of the student's answers that are audited.
            draw: uniform in [0, 1), the question's own.
            required: why only the teacher will do.
        """

    def ledger_answered(self) -> None:
        """The budget has been read anew."""

    def change(self, budget: BudgetSettings, audit_ratio: float) -> None:
        """Go on with another budget and share of audits from the next question on."""
