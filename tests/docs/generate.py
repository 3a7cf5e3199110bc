"""`make docs`: writes the reference pages that are made from the code (python -m tests.docs.generate)."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs.made.alerts import alerts_page
from tests.docs.made.commands import commands_page
from tests.docs.made.events import events_page
from tests.docs.made.files import files_page
from tests.docs.made.metrics import metrics_page
from tests.docs.made.openapi import admin_document, gateway_document
from tests.docs.made.settings import settings_page

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"
PAGES: Final[dict[str, Callable[[], str]]] = {
    "alerts.md": alerts_page,
    "cli.md": commands_page,
    "event.md": events_page,
    "files.md": files_page,
    "metrics.md": metrics_page,
    "openapi-admin.json": admin_document,
    "openapi.json": gateway_document,
    "settings.md": settings_page,
}


def main() -> None:
    """Write every page, and the OpenAPI documents, anew."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
