"""The moves of one lane in memory: for replaying a log without a registry on disk.

They are the chain's own moves, and lead where those lead. Nothing is signed, nobody else writes, and nothing outlives
the process.
"""

from store.errors import RegistryError
from store.event import Lane
from store.registry.chain import GENESIS
from store.registry.moves import Move, MoveKind, Standing, contradiction, fold


class MemoryMoves:
    """See `store.registry.moves.Moves`."""

    def __init__(self, lane: Lane) -> None:
        """Nothing has happened."""
        self._lane = lane
        self._moves: list[Move] = []

    def read(self) -> list[Move]:
        """Every move, oldest first."""
        return list(self._moves)

    def standing(self) -> Standing:
        """Where they lead."""
        return fold(self._moves)

    def append(
        self, kind: MoveKind, *, version: str | None, who: str, why: str, now_s: float, anchor: bool = False
    ) -> Move:
        """Put a move at the end; arguments as of `Moves.append`, but a version has whatever name the caller gives it.

        Raises:
            RegistryError: the move is malformed.
        """
        move = Move(
            number=len(self._moves) + 1,
            kind=kind,
            lane=self._lane,
            version=version,
            previous_sha256=GENESIS,
            who=who,
            why=why,
            time_s=now_s,
            anchor=anchor,
        )
        if (odd := contradiction(move)) is not None:
            raise RegistryError(odd)
        self._moves.append(move)
        return move
