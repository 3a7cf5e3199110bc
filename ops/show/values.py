"""Values in words for people."""

from datetime import UTC, datetime


def time_of(unix_s: float) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ratio_of(value: float | None) -> str:
    """A ratio for people."""
    return "-" if value is None else f"{value:.1%}"
