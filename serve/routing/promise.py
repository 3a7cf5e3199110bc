"""A lane that keeps a promise: the student answers where the serving version's own threshold certifies it."""

from functools import partial

from serve.routing.routing import Choice, Required
from serve.settings import BudgetSettings
from store.policy import Policy, StudentView, who_answers
from store.student.loaded import Opinion


class PromiseRouting:
    """Satisfies `Routing`. It remembers nothing: all it needs ships inside the version."""

    promises = True

    def see(self, opinion: Opinion, version: str) -> None:
        """See `Routing`."""

    def choose(
        self,
        policy: Policy | None,
        opinion: Opinion | None,
        *,
        cold: bool,  # noqa: ARG002 - then there is no policy either
        audit_ratio: float,
        draw: float,
        required: Required | None,
    ) -> Choice:
        """See `Routing`."""
        view = None if opinion is None else StudentView(confidence=opinion.confidence, novelty=opinion.novelty)
        return partial(who_answers, policy, view, audit_ratio=audit_ratio, draw=draw, required=required)

    def ledger_answered(self) -> None:
        """See `Routing`."""

    def change(self, budget: BudgetSettings, audit_ratio: float) -> None:
        """See `Routing`."""
