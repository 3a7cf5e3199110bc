"""The registry: one folder with what students, moves and decisions are kept in, each signed."""

from pathlib import Path

from store.answers.rulings import Rulings
from store.event import Lane
from store.letters.decisions import LetterDecisions
from store.registry.files.durable import require_exclusive_create
from store.registry.files.folders import lane_registry, letters_folder, rulings_folder
from store.registry.moves import Moves
from store.registry.signing import TrustedKeys
from store.registry.versions import Versions


class Registry:
    """The registry: of each lane versions, moves and rulings; of each use case what was decided about dead letters."""

    def __init__(self, root: Path, trusted: TrustedKeys) -> None:
        """Use the registry at `root`; reading needs no write permission."""
        self._root = root
        self._trusted = trusted

    def versions(self, lane: Lane) -> Versions:
        """The versions of a lane."""
        return Versions(self._root, self._trusted, lane)

    def moves(self, lane: Lane) -> Moves:
        """The moves of a lane."""
        return Moves(lane_registry(self._root, lane)[1], self._trusted, lane)

    def rulings(self, lane: Lane) -> Rulings:
        """What people decided about the lane's older answers."""
        return Rulings(rulings_folder(self._root, lane), self._trusted, lane)

    def letters(self, use_case: str) -> LetterDecisions:
        """What people decided about the use case's dead letters, which may be of no lane."""
        return LetterDecisions(letters_folder(self._root, use_case), self._trusted, use_case)

    def require_exclusive_create(self) -> None:
        """For the start of every process that writes: refuse a file system on which two writers could both win.

        Raises:
            RegistryError: it cannot create exclusively, or cannot be written.
        """
        require_exclusive_create(self._root)
