"""The console: which page answers a request, for whom, and how long its numbers are kept."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from traceback import extract_tb
from typing import Any, Final, TypeVar

from ops.console.kept import Kept, StillReadingError
from ops.console.render import render, static_files
from ops.console.views import lane as lanes
from ops.console.visitor import NotOpenError, Visitor, visitor_of
from ops.console.web import ROOT, Answered, Asked, file, page, refused
from ops.sections import LaneSection
from ops.site import Site
from ops.status.collect import collect
from ops.status.report import LaneStatus, StatusReport
from ops.status.shown import lane_fields
from store.errors import SettingsError, UnderstudyError
from store.log.lazy import logger

_log = logger(__name__)
_KEEP_S: Final = 2.0  # numbers: whoever looks sees them this old at most
_WAIT_S: Final = 6.0  # an admin connection lasts 15 s

Found = TypeVar("Found")


class Console:
    """Satisfies `ops.console.web.Pages`."""

    def __init__(self, site: Site) -> None:
        """Show an installation."""
        self._site = site
        self._kept = Kept()

    def become(self, site: Site) -> None:
        """Show it by other settings from now on."""
        self._site = site
        self._kept.forget()

    def close(self) -> None:
        """Read nothing more."""
        self._kept.close()

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
            visitor = visitor_of(self._site, asked)
            return self._page(asked, visitor, parts)
        except StillReadingError:
            return page(render("reading", **self._frame(asked, visitor)), HTTPStatus.SERVICE_UNAVAILABLE)
        except (NotOpenError, UnderstudyError) as error:
            status, title = _why(error)
            return self._refusal(asked, visitor, status, title, str(error))
        except Exception as error:  # noqa: BLE001 - a page that fails is an answer, and the console lives on
            frame = extract_tb(error.__traceback__)[-1]  # its message may hold a text
            where = f"{frame.filename}:{frame.lineno}"
            _log.warning("console_failed", path=asked.path[:100], error=type(error).__name__, where=where)
            status, title = HTTPStatus.INTERNAL_SERVER_ERROR, "This page failed"
            return self._refusal(asked, visitor, status, title, "The gateway's log says how.")

    def _page(self, asked: Asked, visitor: Visitor, parts: list[str]) -> Answered:
        if not visitor.sees_numbers:
            visitor.need("view")
        match (asked.method, parts):
            case ("GET", [""]):
                return self._lanes(asked, visitor)
            case ("GET", ["lane", tenant, use_case]) if section := self._section(tenant, use_case):
                return self._lane(asked, visitor, section)
            case _:
                return self._refusal(asked, visitor, HTTPStatus.NOT_FOUND, "There is no such page", asked.path[:200])

    def _lanes(self, asked: Asked, visitor: Visitor) -> Answered:
        report = self._report()
        views = [lanes.lane_view(status, self._site.lane(status.lane)) for status in report.lanes]
        return page(render("lanes", **self._frame(asked, visitor), report=report, views=views))

    def _lane(self, asked: Asked, visitor: Visitor, section: LaneSection) -> Answered:
        status = self._status(section)
        champion = self._read(
            ("champion", section.lane, status.champion), lambda: lanes.champion_of(self._site, status, section)
        )
        slices = lanes.slices_of(champion)
        return page(
            render(
                "lane",
                **self._frame(asked, visitor),
                view=lanes.lane_view(status, section),
                evidence=lanes.evidence_of(self._site, status, section, champion),
                slices=slices,
                widest=lanes.widest(slices),
                days=self._read(("days", section.lane), lambda: lanes.days_of(self._site, section)),
                fields=lane_fields(status),
            )
        )

    def _section(self, tenant: str, use_case: str) -> LaneSection | None:
        return next(
            (one for one in self._site.settings.lanes if (one.tenant, one.use_case) == (tenant, use_case)), None
        )

    def _report(self) -> StatusReport:
        return self._read("status", lambda: collect(self._site, list(self._site.settings.lanes)))

    def _status(self, section: LaneSection) -> LaneStatus:
        return next(one for one in self._report().lanes if one.lane == str(section.lane))

    def _read(self, name: Any, make: Callable[[], Found], keep_s: float = _KEEP_S) -> Found:
        return self._kept.get(name, make, keep_s=keep_s, wait_s=_WAIT_S)

    def _frame(self, asked: Asked, visitor: Visitor) -> Mapping[str, Any]:
        """What every page needs."""
        named = [str(section.lane) for section in self._site.settings.lanes] if visitor.sees_numbers else []
        return {"visitor": visitor, "path": _address(asked), "lanes": named}

    def _refusal(self, asked: Asked, visitor: Visitor, status: HTTPStatus, title: str, why: str) -> Answered:
        return page(render("refusal", **self._frame(asked, visitor), title=title, why=why), status)


def _why(error: Exception) -> tuple[HTTPStatus, str]:
    """With which status a page is refused, and under which title."""
    match error:
        case NotOpenError():
            return HTTPStatus.FORBIDDEN if error.known else HTTPStatus.UNAUTHORIZED, "A token is needed"
        case SettingsError():
            return HTTPStatus.SERVICE_UNAVAILABLE, "The settings stand in the way"
        case _:
            return HTTPStatus.SERVICE_UNAVAILABLE, "This cannot be told now"


def _static(name: str) -> Answered:
    found = static_files().get(name)
    return refused(HTTPStatus.NOT_FOUND, "there is no such file") if found is None else file(*found)


def _address(asked: Asked) -> str:
    return f"{asked.path}?{asked.query}" if asked.query else asked.path
