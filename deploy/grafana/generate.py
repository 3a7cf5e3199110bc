"""`make docs` writes the dashboards' files with this, too: python -m deploy.grafana.generate."""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.learner import LEARNER
from deploy.grafana.manager import MANAGER
from deploy.grafana.on_call import ON_CALL
from deploy.grafana.panels import Board, grafana_of

FOLDER: Final = Path(__file__).parent / "dashboards"
BOARDS: Final = (MANAGER, ON_CALL, LEARNER)


def file_of(board: Board) -> Path:
    """Where a dashboard's file lies."""
    return FOLDER / f"{board.name}.json"


def text_of(board: Board) -> str:
    """What stands in it: the same for the same description."""
    encoded = json.loads(JSONEncoder().encode(grafana_of(board).build()))
    return json.dumps(encoded, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file anew."""
    for board in BOARDS:
        file_of(board).write_text(text_of(board), "utf-8")


if __name__ == "__main__":
    main()
