"""Rows in two halves, so that each can be answered by a fit on the other."""

from collections.abc import Sequence


def halves(clusters: Sequence[int]) -> list[list[int]]:
    """Places in two halves, empty ones left out: linked rows share one, or each would tell of the other."""
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    found = [[place for place, cluster in enumerate(clusters) if number[cluster] % 2 == half] for half in (0, 1)]
    return [half for half in found if half]
