"""The console: which page answers a request, for whom, and what is said where there is none."""

from collections.abc import Mapping
from http import HTTPStatus
from traceback import extract_tb
from typing import Any, Final

from ops.console import moves, pages
from ops.console.kept import StillReadingError
from ops.console.pages import Page, Show
from ops.console.reads import Reads
from ops.console.render import render, static_files
from ops.console.visitor import NotOpenError, Visitor, visitor_of
from ops.console.web import ROOT, Answered, Asked, file, page, refused
from ops.exits import RefusedError
from ops.site import Site
from store.errors import MoveConflictError, SettingsError, UnderstudyError, UnknownVersionError
from store.log.lazy import logger

_log = logger(__name__)
_IN_A_DIALOG: Final = "move-body"  # where answers about moves are put

_OF_A_LANE: Final[Mapping[tuple[str, str, int], Show]] = {  # by what follows the lane, and how many parts that has
    ("GET", "", 0): pages.lane_page,
    ("GET", "history", 1): pages.history_page,
    ("GET", "version", 2): pages.version_page,
    ("GET", "buffer", 1): pages.buffer_page,
    ("GET", "audits", 1): pages.audits_page,
    ("GET", "move", 1): moves.confirm_page,
    ("POST", "move", 1): moves.move_page,
}


class Console:
    """Satisfies `ops.console.web.Pages`."""

    def __init__(self, site: Site) -> None:
        """Show an installation."""
        self._reads = Reads(site)

    def become(self, site: Site) -> None:
        """Show it by other settings from now on."""
        self._reads.become(site)

    def close(self) -> None:
        """Read nothing more."""
        self._reads.close()

    def answer(self, asked: Asked) -> Answered:
        """The page, or why there is none."""
        parts = asked.path.removeprefix(ROOT).strip("/").split("/")
        if not asked.from_no_other_page:
            return refused(HTTPStatus.FORBIDDEN, "pages of other sites are not answered")
        if asked.method not in {"GET", "POST"}:
            return refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST are answered here")
        if asked.method == "GET" and parts[0] == "static":
            return _static(parts[-1])
        return self._shown(asked, parts)

    def _shown(self, asked: Asked, parts: list[str]) -> Answered:
        visitor = Visitor()
        try:
            visitor = visitor_of(self._reads.site, asked)
            if not visitor.sees_numbers:
                visitor.need("view")
            if (found := self._found(asked, visitor, parts)) is not None:
                return page(render(found.template, **self._frame(asked, visitor), **found.values))
            status, title, why = HTTPStatus.NOT_FOUND, "There is no such page", asked.path[:200]
        except StillReadingError:
            return page(render("reading", **self._frame(asked, visitor)), HTTPStatus.SERVICE_UNAVAILABLE)
        except (NotOpenError, UnderstudyError) as error:
            (status, title), why = _told(error), str(error)
        except Exception as error:  # noqa: BLE001 - a page that fails is an answer, and the console lives on
            frame = extract_tb(error.__traceback__)[-1]  # its message may hold a text
            where = f"{frame.filename}:{frame.lineno}"
            _log.warning("console_failed", path=asked.path[:100], error=type(error).__name__, where=where)
            status, title, why = HTTPStatus.INTERNAL_SERVER_ERROR, "This page failed", "The gateway's log says where."
        in_a_dialog = asked.headers.get("hx-target") == _IN_A_DIALOG
        template = "refused" if in_a_dialog else "refusal"
        return page(render(template, **self._frame(asked, visitor), title=title, why=why), status)

    def _found(self, asked: Asked, visitor: Visitor, parts: list[str]) -> Page | None:
        """The page of an address; None: there is none."""
        reads = self._reads
        if asked.method == "GET" and parts == [""]:
            return pages.lanes_page(reads)
        match parts:
            case ["lane", tenant, use_case, *rest] if (section := reads.section(tenant, use_case)) is not None:
                show = _OF_A_LANE.get((asked.method, rest[0] if rest else "", len(rest)))
                return None if show is None else show(reads, section, asked, visitor)
            case _:
                return None

    def _frame(self, asked: Asked, visitor: Visitor) -> Mapping[str, Any]:
        """What every page needs."""
        lanes = self._reads.site.settings.lanes if visitor.sees_numbers else ()
        return {"visitor": visitor, "path": _address(asked), "lanes": [str(section.lane) for section in lanes]}


def _told(error: Exception) -> tuple[HTTPStatus, str]:
    """With which status something is refused, and under which title."""
    match error:
        case NotOpenError():
            return HTTPStatus.FORBIDDEN if error.known else HTTPStatus.UNAUTHORIZED, "A token is needed"
        case RefusedError() | MoveConflictError():
            return HTTPStatus.CONFLICT, "Nothing was moved"
        case UnknownVersionError():
            return HTTPStatus.NOT_FOUND, "There is no such version"
        case SettingsError():
            return HTTPStatus.SERVICE_UNAVAILABLE, "The settings stand in the way"
        case _:
            return HTTPStatus.SERVICE_UNAVAILABLE, "This cannot be told now"


def _static(name: str) -> Answered:
    found = static_files().get(name)
    return refused(HTTPStatus.NOT_FOUND, "there is no such file") if found is None else file(*found)


def _address(asked: Asked) -> str:
    return f"{asked.path}?{asked.query}" if asked.query else asked.path
