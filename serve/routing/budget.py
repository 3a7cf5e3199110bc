"""A lane that only has a budget: its calls go to what the student is least sure of, and nothing is promised."""

from functools import partial
from typing import Protocol

from serve.routing.pace import Pace
from serve.routing.routing import Choice, Required
from serve.settings import BudgetSettings
from store.policy import Allowance, Policy, decide_by_budget, escalation_limit
from store.student.loaded import Opinion


class Horizon(Protocol):
    """How much of the budget, and of the traffic that shares it, is still to come."""

    def allowance(self) -> Allowance:
        """What is left now; asked once for each question, so that traffic can be counted."""

    def ledger_answered(self) -> None:
        """The budget has been read anew."""

    def change(self, budget: BudgetSettings, audit_ratio: float) -> None:
        """Plan with another budget and share of audits from the next question on."""


class BudgetRouting:
    """Satisfies `Routing`."""

    promises = False

    def __init__(self, horizon: Horizon, pace: Pace | None = None) -> None:
        """Plan with a horizon; `pace` is what is remembered of the traffic, nothing by default."""
        self.horizon = horizon
        self._pace = pace or Pace()

    def see(self, opinion: Opinion, version: str) -> None:
        """See `Routing`."""
        self._pace.see(opinion.uncertainty, version)

    def choose(
        self,
        policy: Policy | None,  # noqa: ARG002 - what is certified is of no interest here
        opinion: Opinion | None,
        *,
        cold: bool,
        audit_ratio: float,
        draw: float,
        required: Required | None,
    ) -> Choice:
        """See `Routing`."""
        allowance = self.horizon.allowance()
        return partial(
            decide_by_budget,
            None if opinion is None else opinion.uncertainty,
            escalation_limit(self._pace.recent, allowance),
            cold=cold,
            outright=allowance.outright,
            audit_ratio=audit_ratio,
            draw=draw,
            required=required,
        )

    def ledger_answered(self) -> None:
        """See `Routing`."""
        self.horizon.ledger_answered()

    def change(self, budget: BudgetSettings, audit_ratio: float) -> None:
        """See `Routing`."""
        self.horizon.change(budget, audit_ratio)
