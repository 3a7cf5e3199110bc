"""The pages that show something: a template for each, and its values."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ops.console.reads import Reads
from ops.console.views import lane as lanes
from ops.console.views.buffer import CONFLICT, MOST, WRONG, Looked, Shelf
from ops.console.views.timeline import agreements, timeline
from ops.console.visitor import Visitor
from ops.console.web import Asked
from ops.sections import LaneSection
from ops.status.shown import STATE_NAMES, lane_fields, version_fields
from store.promise import bounds
from store.registry.manifest import Manifest


class Page(NamedTuple):
    """A template with what it shows."""

    template: str
    values: Mapping[str, Any]


Show = Callable[[Reads, LaneSection, Asked, Visitor], Page]


def lanes_page(reads: Reads) -> Page:
    """Every lane, and the processes of this machine."""
    report = reads.report()
    views = [lanes.lane_view(status, reads.site.lane(status.lane)) for status in report.lanes]
    return Page("lanes", {"report": report, "views": views})


def lane_page(reads: Reads, section: LaneSection, _asked: Asked, _visitor: Visitor) -> Page:
    """One lane as it stands."""
    status = reads.status(section)
    slices = lanes.slices_of(reads.champion(section))
    days = reads.days(section)
    return Page(
        "lane",
        {
            "view": lanes.lane_view(status, section),
            "evidence": reads.evidence(section),
            "slices": slices,
            "widest": lanes.widest(slices),
            "days": lanes.days_chart(days),
            "fields": lane_fields(status),
        },
    )


def history_page(reads: Reads, section: LaneSection, _asked: Asked, _visitor: Visitor) -> Page:
    """Its moves, cycles and versions."""
    past = reads.past(section)
    return Page(
        "history",
        {
            "view": lanes.lane_view(reads.status(section), section),
            "past": past,
            "happened": timeline(past),
            "chart": agreements(past.versions),
        },
    )


def version_page(reads: Reads, section: LaneSection, asked: Asked, _visitor: Visitor) -> Page:
    """One version; errors are those of `Reads.version`."""
    opened = reads.version(section, asked.path.rpartition("/")[2])
    manifest: Manifest = opened.manifest
    slices = lanes.slices_of(manifest)
    return Page(
        "version",
        {
            "view": lanes.lane_view(reads.status(section), section),
            "id": opened.id,
            "manifest": manifest,
            "fields": version_fields(opened.id, opened.signed_by, manifest),
            "slices": slices,
            "widest": lanes.widest(slices),
        },
    )


def buffer_page(reads: Reads, section: LaneSection, asked: Asked, visitor: Visitor) -> Page:
    """Its kept questions; with examples for who may read texts."""
    looked = reads.looked(section) if visitor.may("view") else None
    champion = reads.champion(section)
    shelf = _chosen(asked)
    return Page(
        "buffer",
        {
            "view": lanes.lane_view(reads.status(section), section),
            "topics": champion.topics if isinstance(champion, Manifest) else [],
            "states": STATE_NAMES,
            "most": MOST,
            "looked": looked,
            "shelf": shelf,
            "examples": _examples(looked, shelf),
        },
    )


def audits_page(reads: Reads, section: LaneSection, _asked: Asked, visitor: Visitor) -> Page:
    """What audits say of each version; with what they found wrong for who may read texts."""
    looked = reads.looked(section) if visitor.may("view") else None
    promise = section.promise
    return Page(
        "audits",
        {
            "view": lanes.lane_view(reads.status(section), section),
            "rows": [
                (version, tally, bounds(tally.audits, tally.agreed, 1 - promise.confidence, guess=promise.target))
                for version, tally in reads.audits(section).items()
            ],
            "target": promise.target if section.policy == "promise" else None,
            "most": MOST,
            "looked": looked,
            "examples": _examples(looked, WRONG),
        },
    )


def _chosen(asked: Asked) -> Shelf:
    """Which questions a person wants to see; else those that contradict one another."""
    for kind in ("label", "state", "topic"):
        if value := asked.value(kind):
            return kind, value
    return CONFLICT


def _examples(looked: Looked | None, shelf: Shelf) -> list[Any]:
    return [] if looked is None else looked.examples.get(shelf, [])
