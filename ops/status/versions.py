"""A version in one line, for `history` and the report."""

import msgspec

from ops.sections import LaneSection
from ops.site import Site
from store.errors import RegistryError


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a lane."""

    id: str
    created_s: float | None = None  # Unix seconds; None: it cannot be read
    kind: str | None = None
    verdict: str | None = None
    student_agreement: float | None = None
    error: str | None = None
    refusals: list[str] = []  # of the gate, for a person


def version_row(site: Site, section: LaneSection, version: str) -> VersionRow:
    """What a version's manifest says of it."""
    try:
        manifest = site.registry.versions(section.lane).manifest(version)
    except RegistryError as error:
        return VersionRow(id=version, error=str(error))
    verdict = manifest.verdict
    return VersionRow(
        id=version,
        created_s=manifest.created_s,
        kind=manifest.kind,
        verdict=verdict.outcome if verdict else None,
        student_agreement=verdict.student_agreement if verdict else None,
        refusals=verdict.refusals if verdict else [],
    )
