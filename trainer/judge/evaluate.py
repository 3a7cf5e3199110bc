"""Champion and challenger on the same held-out rows, side by side."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainer.judge.scored import Scored
from trainer.snapshot import Row

Bools = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedScores:
    """Who agreed with the teacher, row by row; rows that a competitor has learned from are left out."""

    item_ids: tuple[str, ...]
    champion: Shares | None  # [rows] share of the teacher's answers that it agreed with; None: there is no champion
    challenger: Shares  # [rows]
    weights: npt.NDArray[np.float64]  # [rows] requests each row stands for
    clusters: npt.NDArray[np.int64]  # [rows] linked rows share a number
    hard: Bools  # [rows] a student was asked and did not keep the request
    blocking: Mapping[str, Bools]  # declared slices: name -> [rows]
    watched: Mapping[str, Bools] = field(default_factory=dict)  # slices that are told and bind nobody
    known: int  # rows left out because they are linked to a competitor's training row

    @property
    def rows(self) -> int:
        """How many rows are compared."""
        return len(self.item_ids)


def paired(
    champion: Scored | None,
    challenger: Scored,
    rows: Sequence[Row],
    *,
    trained: Collection[str],
    clusters: Mapping[str, int],
    blocking: Mapping[str, Collection[str]] | None = None,
    watched: Mapping[str, Collection[str]] | None = None,
) -> PairedScores:
    """Compare on identical rows.

    Args:
        champion: its behaviour on the rows; None when there is no champion.
        challenger: the challenger's; both scored with one set of weights.
        rows: the judge rows, in the order of the scores.
        trained: ids of the items that either competitor was trained on.
        clusters: `Snapshot.clusters`: rows linked to a trained item are left out, too.
        blocking: declared slices, name -> the ids of the items that make it up.
        watched: likewise, of slices that bind nobody.

    Raises:
        ValueError: there is not one score a row.
    """
    if any(scored is not None and scored.rows != len(rows) for scored in (champion, challenger)):
        message = f"{challenger.rows} scores for {len(rows)} rows"
        raise ValueError(message)
    seen = set(trained)
    seen_clusters = {clusters[item_id] for item_id in seen if item_id in clusters}
    new = np.array([row.item_id not in seen and row.cluster not in seen_clusters for row in rows], np.bool_)
    kept = [row for row, keep in zip(rows, new, strict=True) if keep]
    return PairedScores(
        item_ids=tuple(row.item_id for row in kept),
        champion=None if champion is None else champion.agreed[new],
        challenger=challenger.agreed[new],
        weights=challenger.weight[new],
        clusters=challenger.cluster[new],
        hard=np.array([row.first_opinion is not None and row.escalated > 0 for row in kept], np.bool_),
        blocking=_masks(blocking or {}, kept),
        watched=_masks(watched or {}, kept),
        known=len(rows) - len(kept),
    )


def _masks(slices: Mapping[str, Collection[str]], kept: Sequence[Row]) -> Mapping[str, Bools]:
    return {
        name: np.array([row.item_id in members for row in kept], np.bool_) for name, members in sorted(slices.items())
    }
