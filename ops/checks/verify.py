"""`understudy verify`: does the buffer hold what the log says, and is every version and move what was signed?"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ops.checks.compare import Findings, Reread, compare, dead_off, look, replay
from ops.checks.letters import compare as compare_letters
from ops.checks.oracle import LaneRules
from ops.open_log import open_history
from ops.reports import Differing, VerifyReport
from ops.site import Site
from store.buffer.ledger import Buffer, LogSlot
from store.buffer.repair.letters import LetterBook
from store.buffer.repair.lists import Lists, ListsHeld, former_lanes
from store.buffer.repair.positions import Positions, Skip
from store.errors import BadSignatureError, RegistryError
from store.event import Lane, Task, UnknownTask, wall_clock_s
from store.registry.chain import Chain, Kept, Owner
from store.registry.moves import fold
from store.registry.registry import Registry
from store.tasks.tasks import BEFORE_NOTES, LaneTerms
from stream.dead_letter import Burials
from stream.ingest import IngestSettings
from stream.log import History

LISTED: Final = 100


@dataclass(slots=True, kw_only=True)
class RegistryFindings:
    """Every version and move of some lanes, verified."""

    chain_ok: bool = True
    signatures_ok: bool = True
    versions_ok: bool = True
    versions: int = 0
    moves: int = 0
    rulings: int = 0
    letters_ok: bool = True
    letters: int = 0  # signed decisions about dead letters
    letters_unsigned: int = 0  # notes of an earlier release
    problems: list[str] = field(default_factory=list)


def verify(
    rules: Mapping[str, Mapping[Lane, LaneRules]],
    chosen: Iterable[Lane],
    *,
    history: History,
    buffer: Buffer,
    registry: Registry,
    items_per_stratum: int,
    max_age_s: float,
    skips: Mapping[str, Collection[Skip]] | None = None,
    held: Mapping[str, Sequence[ListsHeld]] | None = None,
    buried_as: Mapping[str, Callable[[LogSlot, int], str]] | None = None,
    notes: Mapping[str, Mapping[str, bytes]] | None = None,
    now_s: float = 0.0,
) -> VerifyReport:
    """Verify the chosen lanes.

    Args:
        rules: of every lane, by use case: the topic of a use case holds records of all its lanes.
        chosen: the lanes whose buffer, versions and moves are compared.
        history: the log, read outside any group.
        buffer: what is compared with it.
        registry: whose versions and moves are verified.
        items_per_stratum: how many the buffer keeps of each lane and stratum.
        max_age_s: an event older than this when the log took it is a dead letter.
        skips: by use case, where a person has decided to read on elsewhere.
        held: by use case, by which labels ingest read each slot.
        buried_as: by use case, for what reason an earlier release buried what it did not keep; none: for its task.
        notes: by use case, what is noted of decisions about dead letters.
        now_s: Unix seconds, for what may be under way; 0: nothing is.

    Raises:
        StoreUnavailableError, LogUnavailableError: Redis or the log did not answer.
    """
    lanes = sorted(chosen)
    replays: list[Reread] = []
    findings: list[Findings] = []
    differing: list[Differing] = []
    damaged: list[str] = []
    lost: list[str] = []
    decided = [skip for use_case in {lane.use_case for lane in lanes} for skip in (skips or {}).get(use_case, ())]
    for use_case in sorted({lane.use_case for lane in lanes}):
        seen = look(buffer, use_case, rules[use_case])
        said = replay(
            use_case,
            rules[use_case],
            history,
            seen,
            max_age_s=max_age_s,
            skips=(skips or {}).get(use_case, ()),
            held=(held or {}).get(use_case, ()),
            buried_as=(buried_as or {}).get(use_case, lambda *_: UnknownTask.buried_as),
        )
        damaged += [f"{lane}: {name}" for lane in lanes if lane in seen.damaged for name in sorted(seen.damaged[lane])]
        lost += [
            why
            for lane in lanes
            if lane.use_case == use_case
            for why in lost_since(registry, lane, seen.after, (skips or {}).get(use_case, ()))
        ]
        replays.append(said)
        findings += [compare(lane, seen, said, items_per_stratum) for lane in lanes if lane.use_case == use_case]
        if said.complete and (wrong := dead_off(seen, said)):
            differing.append(Differing(what=use_case, fields=wrong))
    kept = check_registry(registry, lanes)
    for use_case in sorted({lane.use_case for lane in lanes}):
        _check_letters(registry, use_case, (notes or {}).get(use_case, {}), now_s, kept)
    report = _report(replays, findings, differing, kept, lanes)
    return msgspec.structs.replace(
        report,
        ok=report.ok and not damaged and not lost,
        complete=report.complete and not lost,
        lost=lost[:LISTED],
        damaged=damaged[:LISTED],
        skipped=[_told(skip) for skip in decided][-LISTED:],
    )


def _told(skip: Skip) -> str:
    """A skip in one line."""
    parts = [f"{skip.slot.topic}[{skip.slot.partition}]: {skip.at} -> {skip.to} by {skip.who}: {skip.why}"]
    if skip.unread[1] > skip.unread[0]:
        parts.append(f"{skip.unread[0]} to {skip.unread[1]} never read")
    if skip.again[1] > skip.again[0]:
        parts.append(f"{skip.again[0]} to {skip.again[1]} read again")
    return "; ".join(parts)


def verify_site(site: Site, chosen: Iterable[Lane]) -> VerifyReport:
    """Verify lanes of an installation; errors as of `verify`."""
    with site.redis_client() as client, open_history(site, client) as history:
        held = {use_case: Lists(client).held(use_case) for use_case in site.use_cases}
        return verify(
            _rules(site, held),
            chosen,
            history=history,
            buffer=site.buffer(client),
            registry=site.registry,
            items_per_stratum=site.settings.buffer.items_per_stratum,
            max_age_s=IngestSettings().max_age_s,
            skips={use_case: Positions(client).skips(use_case) for use_case in site.use_cases},
            buried_as={use_case: Burials(history, use_case, site.secret) for use_case in site.use_cases},
            held=held,
            notes={use_case: LetterBook(client).notes(use_case) for use_case in site.use_cases},
            now_s=wall_clock_s(),
        )


def _rules(site: Site, held: Mapping[str, Sequence[ListsHeld]]) -> dict[str, dict[Lane, LaneRules]]:
    """What the oracle needs to know of every lane, by use case; of those that were taken out of the settings, too."""
    found: dict[str, dict[Lane, LaneRules]] = {use_case: {} for use_case in site.use_cases}
    for section in site.settings.lanes:
        terms = section.terms(site.rules(section.lane).earlier)
        found[section.use_case][section.lane] = _rules_of(
            site, section.lane, section.task, terms, training_permitted=section.training_permitted
        )
    for use_case, rules in found.items():
        for lane, noted in former_lanes(held[use_case], rules).items():
            task = noted.task or BEFORE_NOTES[0]
            rules[lane] = _rules_of(
                site, lane, task, noted.terms, training_permitted=noted.training_permitted is not False
            )
    return found


def _rules_of(site: Site, lane: Lane, task: Task, terms: LaneTerms, *, training_permitted: bool) -> LaneRules:
    return LaneRules(
        lane_key=site.secret.lane_key(lane),
        redaction_key=site.secret.redaction_key(lane),
        subject_key=site.secret.subject_key(lane),
        task=task,
        training_permitted=training_permitted,
        terms=terms,
    )


def _report(
    replays: list[Reread],
    findings: list[Findings],
    dead: list[Differing],
    kept: RegistryFindings,
    lanes: list[Lane],
) -> VerifyReport:
    missing = [name for found in findings for name in found.missing]
    extra = [name for found in findings for name in found.extra]
    differing = [*dead, *(one for found in findings for one in found.differing)]
    wrong = len(missing) + len(extra) + len(differing)
    return VerifyReport(
        ok=not wrong and kept.chain_ok and kept.signatures_ok and kept.versions_ok and kept.letters_ok,
        from_offset=max((said.from_offset for said in replays), default=0),
        complete=all(said.complete for said in replays),
        offsets={slot: position for said in replays for slot, position in said.offsets.items()},
        records=sum(said.records for said in replays),
        expected=sum(found.expected for found in findings),
        found=sum(found.found for found in findings),
        missing=missing[:LISTED],
        extra=extra[:LISTED],
        differing=differing[:LISTED],
        wrong=wrong,
        damaged=[],
        skipped=[],
        in_motion=sum(len(said.moving[lane]) for said in replays for lane in lanes if lane in said.moving),
        chain_ok=kept.chain_ok,
        signatures_ok=kept.signatures_ok,
        versions_ok=kept.versions_ok,
        versions=kept.versions,
        moves=kept.moves,
        rulings=kept.rulings,
        letters_ok=kept.letters_ok,
        letters=kept.letters,
        letters_unsigned=kept.letters_unsigned,
        problems=kept.problems[:LISTED],
    )


def lost_since(registry: Registry, lane: Lane, positions: Mapping[LogSlot, str], skips: Collection[Skip]) -> list[str]:
    """What the champion was made from and the buffer no longer knows of, a sentence each.

    Its signed manifest proves how far the log had been applied then. A Redis that was emptied holds an empty buffer and
    an empty log, which agree; this is what tells.
    """
    try:
        champion = fold(registry.moves(lane).read()).champion
        snapshot = None if champion is None else registry.versions(lane).manifest(champion).snapshot
    except (RegistryError, OSError):
        return []  # `check_registry` says why
    if snapshot is None:
        return []
    stands = {f"{slot.uuid}/{slot.partition}": position for slot, position in positions.items()}
    moved = {f"{skip.slot.uuid}/{skip.slot.partition}" for skip in skips}
    return [
        f"{lane}: the champion {champion} was made when the log had been applied up to {then} of {name}, "
        + (f"and the buffer stands at {stands[name]}" if name in stands else "of which the buffer knows nothing")
        + ": Redis was emptied, or restored from an older copy; restore a newer one, or import a log again"
        for name, then in sorted(snapshot.positions.items())
        if name not in moved and _offset(stands.get(name)) < _offset(then)
    ]


def _offset(position: str | None) -> int:
    """A stored position as a number; below every record where there is none."""
    return int(position) if position is not None and position.isascii() and position.isdecimal() else -1


def check_registry(registry: Registry, lanes: Iterable[Lane]) -> RegistryFindings:
    """Verify every move, every version's signature and the sha256 of every file."""
    found = RegistryFindings()
    for lane in lanes:
        moves = _check_chain(registry.moves(lane), found) or []
        named = {move.version for move in moves if move.version is not None}
        found.moves += len(moves)
        found.rulings += len(_check_chain(registry.rulings(lane), found) or [])
        versions = registry.versions(lane)
        present = versions.list()
        found.versions += len(present)
        for version in present:
            try:
                versions.open(version)
            except BadSignatureError as error:
                found.signatures_ok = False
                found.problems.append(f"{lane}: version {version}: {error}")
            except (RegistryError, OSError) as error:
                found.versions_ok = False
                found.problems.append(f"{lane}: {error}")
        for version in sorted(named - set(present)):
            found.versions_ok = False
            found.problems.append(f"{lane}: version {version} is named by a move, but it is gone")
    return found


def _check_letters(
    registry: Registry, use_case: str, notes: Mapping[str, bytes], now_s: float, found: RegistryFindings
) -> None:
    """Verify the decisions about a use case's dead letters, and compare what is noted with them."""
    records = _check_chain(registry.letters(use_case), found)
    if records is None:
        found.letters_ok = False
        return
    compared = compare_letters(use_case, notes, records, now_s=now_s)
    found.letters += len(records)
    found.letters_unsigned += compared.unsigned
    found.letters_ok = found.letters_ok and not compared.problems
    found.problems += compared.problems


def _check_chain(chain: Chain[Kept, Owner], found: RegistryFindings) -> list[Kept] | None:
    """Verify moves, rulings or decisions; None where they do not verify."""
    try:
        return chain.read()
    except BadSignatureError as error:
        found.signatures_ok = False
        found.problems.append(f"{chain.owner}: {error}")
    except (RegistryError, OSError) as error:
        found.chain_ok = False
        found.problems.append(f"{chain.owner}: {error}")
    return None
