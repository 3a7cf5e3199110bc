"""What a cycle's process makes its referee of: light, for the daemon hands it over and judges nothing itself."""

from dataclasses import dataclass

from ops.sections import LaneSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The lane whose teacher judges, and where its budget is counted."""

    section: LaneSection
    redis_url: str
