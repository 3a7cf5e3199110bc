"""Champion and challenger on the same held-out rows, side by side."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.snapshot import Row

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedScores:
    """Who agreed with the teacher, row by row; rows that a competitor has learned from are left out."""

    item_ids: tuple[str, ...]
    champion: Bools | None  # [rows]; None when there is no champion
    challenger: Bools  # [rows]
    weights: npt.NDArray[np.float64]  # [rows] requests each row stands for
    clusters: npt.NDArray[np.int64]  # [rows] linked rows share a number
    hard: Bools  # [rows] a student was asked and did not keep the request
    blocking: Mapping[str, Bools]  # declared slices: name -> [rows]
    known: int  # rows left out because they are linked to a competitor's training row

    @property
    def rows(self) -> int:
        """How many rows are compared."""
        return len(self.item_ids)


def agreement(probs: npt.NDArray[np.floating], labels: Sequence[str], rows: Sequence[Row]) -> Bools:
    """[rows] whether the top label is the teacher's; a label that the student does not have is a miss.

    Args:
        probs: [rows, labels].
        labels: the student's label map.
        rows: with the teacher's label each.

    Raises:
        ValueError: the shapes do not fit.
    """
    if probs.shape != (len(rows), len(labels)):
        message = f"probabilities of shape {probs.shape} for {len(rows)} rows and {len(labels)} labels"
        raise ValueError(message)
    top = probs.argmax(axis=1) if len(rows) else np.empty(0, np.int64)
    return np.array([labels[best] == row.label for best, row in zip(top, rows, strict=True)], np.bool_)


def paired(
    champion_probs: npt.NDArray[np.floating] | None,
    challenger_probs: npt.NDArray[np.floating],
    rows: Sequence[Row],
    *,
    champion_labels: Sequence[str] = (),
    challenger_labels: Sequence[str],
    trained: Collection[str],
    clusters: Mapping[str, int],
    blocking: Mapping[str, Collection[str]] | None = None,
) -> PairedScores:
    """Compare on identical rows.

    Args:
        champion_probs: [rows, champion's labels]; None when there is no champion.
        challenger_probs: [rows, challenger's labels].
        rows: the judge rows, in the order of the probabilities.
        champion_labels: the champion's label map; it may lack labels.
        challenger_labels: the challenger's.
        trained: ids of the items that either competitor was trained on.
        clusters: `Snapshot.clusters`: rows linked to a trained item are left out, too.
        blocking: declared slices, name -> the teacher's labels that make it up.
    """
    seen = set(trained)
    seen_clusters = {clusters[item_id] for item_id in seen if item_id in clusters}
    new = np.array([row.item_id not in seen and row.cluster not in seen_clusters for row in rows], np.bool_)
    challenger = agreement(challenger_probs, challenger_labels, rows)
    champion = None if champion_probs is None else agreement(champion_probs, champion_labels, rows)
    kept = [row for row, keep in zip(rows, new, strict=True) if keep]
    return PairedScores(
        item_ids=tuple(row.item_id for row in kept),
        champion=None if champion is None else champion[new],
        challenger=challenger[new],
        weights=np.array([row.requests for row in kept], np.float64),
        clusters=np.array([row.cluster for row in kept], np.int64),
        hard=np.array([row.first_opinion is not None and row.escalated > 0 for row in kept], np.bool_),
        blocking={
            name: np.array([row.label in members for row in kept], np.bool_)
            for name, members in sorted((blocking or {}).items())
        },
        known=len(rows) - len(kept),
    )
