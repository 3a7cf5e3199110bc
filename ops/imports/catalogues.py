"""A lane's catalogue of documents: read from a file, redacted with the lane's key, embedded once, kept in state_dir."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.readers.files import BadRow, rows_of
from ops.readers.lists.values import document_of
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.priming import folder_of
from store.errors import SettingsError, TooLaboriousError
from store.event import wall_clock_s
from store.redact import redact

_NAMED_BAD: Final = 20


class CatalogueShown(msgspec.Struct, frozen=True, kw_only=True):
    """One base's catalogue; `-o json` prints it as it is."""

    lane: str
    encoder: str
    base: str  # fingerprint of the encoder
    documents: int
    made_s: float  # Unix seconds
    size_bytes: int


class CatalogueLoaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file."""

    catalogue: CatalogueShown
    rows: int  # good ones, of which some may be the same document
    computed: int  # vectors; the others were known
    skipped: int
    bad: list[dict[str, Any]]  # the first 20: line and why


@dataclass(slots=True, kw_only=True)
class _Documents:
    """What a file holds."""

    texts: list[str]
    bad: list[BadRow]


def read_documents(path: Path, key: bytes) -> _Documents:
    """The redacted documents of a file: strings, or objects with a text, in JSON lines, a JSON array or a table.

    Raises:
        SettingsError: the file cannot be read, or no row is a document.
    """
    found = _Documents(texts=[], bad=[])
    for line, value in rows_of(path):
        text = None if isinstance(value, BadRow) else document_of(value)
        if text is None:
            found.bad.append(value if isinstance(value, BadRow) else BadRow(line=line, why="no text in it"))
            continue
        try:
            found.texts.append(redact(text, key))
        except TooLaboriousError as error:
            found.bad.append(BadRow(line=line, why=str(error)))
    if not found.texts:
        why = f": line {found.bad[0].line}: {found.bad[0].why}" if found.bad else ""
        message = f"{path}: no row is a document, a text or an object with one (text, content, passage){why}"
        raise SettingsError(message)
    return found


def load(site: Site, section: LaneSection, path: Path, *, seen: Callable[[int, int], None]) -> CatalogueLoaded:
    """Put a file's documents in the place of the lane's catalogue for its present encoder.

    Args:
        site: where it is kept.
        section: the lane.
        path: the file.
        seen: told of (vectors computed, vectors to compute).

    Raises:
        SettingsError: the file or the encoder cannot be used.
    """
    documents = read_documents(path, site.secret.redaction_key(section.lane))
    from store.student.rank.bases import features_of, load_base  # noqa: PLC0415 - it needs torch
    from store.student.rank.catalogue import Catalogue  # noqa: PLC0415 - as above
    from trainer.learn.features import BaseEncoder  # noqa: PLC0415 - as above

    own, usual = section.student, site.settings.trainer
    base = BaseEncoder.open(
        str(own.encoder or usual.encoder),
        device=own.device or usual.device,
        precision=own.precision or usual.precision,
        max_tokens=own.max_tokens or usual.max_tokens,
        load=load_base,
    )
    if features_of(base.encoder) == 0:
        message = (
            f"{section.lane}: its base {base.name} is a cross-encoder, which reads every document with the query:"
            " there is nothing to compute before anybody asks"
        )
        raise SettingsError(message)
    computed = 0

    def told(done: int, of: int) -> None:
        nonlocal computed
        computed = of
        seen(done, of)

    held = Catalogue(folder_of(site.settings, section)).load(
        documents.texts, base.encoder, name=base.name, now_s=wall_clock_s(), seen=told
    )
    return CatalogueLoaded(
        catalogue=_shown(section, held),
        rows=len(documents.texts),
        computed=computed,
        skipped=len(documents.bad),
        bad=[{"line": row.line, "why": row.why} for row in documents.bad[:_NAMED_BAD]],
    )


def shown(site: Site, section: LaneSection) -> list[CatalogueShown]:
    """The lane's catalogues, the newest first."""
    from store.student.rank.catalogue import Catalogue  # noqa: PLC0415 - as above

    return [_shown(section, held) for held in Catalogue(folder_of(site.settings, section)).held()]


def _shown(section: LaneSection, held: Any) -> CatalogueShown:
    return CatalogueShown(
        lane=str(section.lane),
        encoder=held.encoder,
        base=held.base,
        documents=held.documents,
        made_s=held.made_s,
        size_bytes=held.size_bytes,
    )
