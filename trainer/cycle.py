"""One cycle: freeze, fit (or take a candidate), calibrate, judge, publish. Runs in the worker's process.

Nothing here moves the champion: the daemon does, once it has the verdict and still holds the lease. A cycle that is
killed leaves nothing behind that counts.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import torch

from store.answers.census import advice, count, waits
from store.buffer.connect import connect
from store.buffer.item import Item
from store.buffer.redis import RedisBuffer
from store.errors import (
    BadSignatureError,
    CorruptVersionError,
    RegistryError,
    SwapRefusedError,
    UnknownVersionError,
)
from store.event import Task
from store.faults.points import reach
from store.registry.files.durable import clear_away
from store.registry.manifest import SNAPSHOT_NAME, VERDICTS_NAME, Manifest, Topic, Verdict
from store.registry.moves import Move, promoted
from store.registry.registry import Registry
from store.registry.sealed import OpenVersion
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.students.records import StudentRecord
from store.registry.versions import Versions
from trainer.attempt import Attempt, attempt, freeze_rows
from trainer.judge.calibrate import rows_to_certify
from trainer.judge.equal import answers_alike, nothing_new, recipe_of
from trainer.judge.gate import Judged
from trainer.judge.topics import topics_of
from trainer.judge.verdicts import judge_challenger
from trainer.learn.enough import NotEnoughLabelsError
from trainer.learn.features import BaseEncoder
from trainer.learn.recipe import Frozen, Lineage, Recipe, Rival
from trainer.learn.tasks import TASKS
from trainer.news import drawn
from trainer.work import CycleResult, CycleSettings, CycleWork, Tell, draft_folder, drawing_of, kept_folder, tell_nobody

_ANSWER_S: Final = 30.0  # of Redis, to a large read


def work_on(work: CycleWork, tell: Tell = tell_nobody) -> CycleResult:
    """The worker's entry: open the stores, run one cycle."""
    tell("reading", None)
    torch.set_num_threads(work.settings.threads)
    lane = work.training.lane
    with connect(work.redis_url, answer_s=_ANSWER_S) as client:
        buffer = RedisBuffer(client, work.items_per_stratum)
        positions = {f"{slot.uuid}/{slot.partition}": at for slot, at in buffer.positions(lane.use_case).items()}
        items = list(buffer.items(lane))
    return run_cycle(work, items, positions, tell)


def run_cycle(
    work: CycleWork, items: Sequence[Item], positions: Mapping[str, str], tell: Tell = tell_nobody
) -> CycleResult:
    """Run one cycle on these items.

    Args:
        work: what to do and where things lie.
        items: the lane's kept items.
        positions: "topic uuid/partition" -> position up to which the log had been applied.
        tell: told how far it has come.
    """
    registry = Registry(work.registry_root, TrustedKeys.load(work.trusted_keys))
    versions = registry.versions(work.training.lane)
    clear_away(draft_folder(work.cache, work.training.lane))  # of a cycle that was killed, as by a disk that is full
    base = base_of(work.training.task, work.settings)
    champion = versions.open(work.champion) if work.champion is not None else None
    lineage = lineage_of(work, registry.moves(work.training.lane).read(), versions, champion)
    frozen = freeze_rows(
        items,
        lineage,
        training=work.training,
        settings=work.settings,
        base=base,
        features=_recipe(work).cache(kept_folder(work.cache, work.training.lane), tell),
        now_s=work.now_s,
        positions=positions,
    )
    if frozen.verdicts is not None and champion is not None and VERDICTS_NAME in champion.manifest.files:
        frozen.verdicts.read(champion.read(VERDICTS_NAME))
    reach("cycle.frozen")
    if work.kind == "candidate":
        result = _judge_candidate(work, versions, frozen, lineage, champion, tell)
    else:
        result = _learn(work, items, versions, base, frozen, lineage, champion, tell)
    verdicts = frozen.verdicts
    return result if verdicts is None else replace(result, asked=verdicts.calls, asked_usd=verdicts.spent_usd)


def _learn(
    work: CycleWork,
    items: Sequence[Item],
    versions: Versions,
    base: BaseEncoder,
    frozen: Frozen,
    lineage: Lineage,
    champion: OpenVersion | None,
    tell: Tell,
) -> CycleResult:
    """A challenger of our own: fitted, judged, and published where it is worth it."""
    rows = drawn(items, drawing_of(work.training, work.settings, work.now_s)).digests
    folder = draft_folder(work.cache, work.training.lane)
    recipe = recipe_of(work.training, work.settings, base.sha256, work.code_version)
    if champion is not None and (why := nothing_new(work.kind, frozen.snapshot, recipe, champion)) is not None:
        return CycleResult(version=None, verdict=_refused(why, work), anchor=False, drawn=rows, nothing_new=True)
    lineage = replace(lineage, records=_records(versions, frozen))
    try:
        made = attempt(work.kind, frozen, lineage, training=work.training, settings=work.settings, tell=tell)
    except NotEnoughLabelsError as error:
        return CycleResult(version=None, verdict=_nothing_to_learn(error, items, work), anchor=False, drawn=rows)
    label_items = made.draft.learned
    reach("cycle.fitted")
    tell("publishing", None)
    try:
        folder.mkdir(parents=True)
        (folder / SNAPSHOT_NAME).write_bytes(frozen.snapshot.content)
        if frozen.verdicts is not None and frozen.verdicts.used:
            (folder / VERDICTS_NAME).write_bytes(frozen.verdicts.content)
        manifest = _manifest(work, made, folder, recipe)
        reach("cycle.drafted")
        if champion is not None and (why := answers_alike(folder, manifest, champion)) is not None:
            verdict = _refused(why, work)
            return CycleResult(
                version=None, verdict=verdict, anchor=False, label_items=label_items, drawn=rows, nothing_new=True
            )
        version = versions.publish(folder, manifest, SigningKey.load(work.signing_key))
        reach("cycle.published")
    finally:
        clear_away(folder)  # whatever became of it: forty megabytes a try fill a disk, or keep it full
    return CycleResult(version=version, verdict=made.verdict, anchor=made.anchor, label_items=label_items, drawn=rows)


def _manifest(work: CycleWork, made: Attempt, folder: Path, recipe: str) -> Manifest:
    """Write the version's files into the folder and say of it what there is to say."""
    parts = made.draft.write(folder, made.policy)
    return Manifest(
        lane=work.training.lane,
        kind=parts.kind,
        parent=work.champion,
        created_s=work.now_s,
        code_version=work.code_version,
        seed=work.settings.seed,
        base=parts.base,
        served_parameters=parts.served_parameters,
        preprocessing=parts.preprocessing,
        student=msgspec.structs.replace(parts.student, recipe=recipe),
        snapshot=made.frozen.snapshot.record,
        verdict=made.verdict,
        policy=made.policy,
        topics=_topics(work, made.frozen),
        files={},
    )


def lineage_of(work: CycleWork, moves: Sequence[Move], versions: Versions, champion: OpenVersion | None) -> Lineage:
    """What the registry knows of the versions before; `moves` are the lane's until then."""
    manifests = [versions.manifest(version) for version in promoted(moves)]
    other = work.anchor if work.anchor != work.champion else None
    return Lineage(
        champion=rival_of(champion, work) if champion is not None else None,
        anchor=rival_of(versions.open(other), work) if other is not None else None,
        history=[
            Judged(labels=manifest.snapshot.rows, verdict=manifest.verdict)
            for manifest in manifests
            if manifest.snapshot is not None and manifest.verdict is not None
        ],
        records={},
    )


def _records(versions: Versions, frozen: Frozen) -> dict[str, StudentRecord]:
    """What the versions whose opinions are on record say of themselves."""
    opinions = {row.first_opinion.opinion.version for row in frozen.snapshot.rows if row.first_opinion is not None}
    found: dict[str, StudentRecord] = {}
    for version in sorted(opinions & set(versions.list())):
        with suppress(RegistryError):  # its opinions cannot be read, and are left out
            found[version] = versions.manifest(version).student
    return found


def _recipe(work: CycleWork) -> Recipe:
    found: Recipe = TASKS[work.training.task].recipe()
    return found


def rival_of(opened: OpenVersion, work: CycleWork) -> Rival:
    """A version, loaded, with what it was trained on."""
    trained: frozenset[str] = frozenset()
    if SNAPSHOT_NAME in opened.manifest.files:
        rows = msgspec.json.decode(opened.read(SNAPSHOT_NAME))["rows"]
        trained = frozenset(row["id"] for row in rows if row["split"] == "train")
    return Rival(student=_recipe(work).load(opened, work.settings), trained=trained)


_bases: dict[tuple[Task, str, str, str, int], BaseEncoder] = {}


def base_of(task: Task, settings: CycleSettings) -> BaseEncoder:
    """Loaded once in this process."""
    name = (task, settings.encoder, settings.device, settings.precision, settings.max_tokens)
    if name not in _bases:
        recipe: Recipe = TASKS[task].recipe()
        _bases[name] = recipe.base(settings)
    return _bases[name]


def _judge_candidate(
    work: CycleWork,
    versions: Versions,
    frozen: Frozen,
    lineage: Lineage,
    champion: OpenVersion | None,
    tell: Tell,
) -> CycleResult:
    """Judge a version that somebody submitted, exactly as one of our own."""
    if work.candidate is None:
        message = "a candidate cycle names no candidate"
        raise ValueError(message)
    tell("judging", None)
    try:
        opened = versions.open(work.candidate)
        candidate = rival_of(opened, work)
        if lineage.champion is not None:  # no gateway would take it into service
            candidate.student.check_follows(lineage.champion.student, removal_declared=False)
    except (CorruptVersionError, BadSignatureError, UnknownVersionError, SwapRefusedError) as error:
        verdict = msgspec.structs.replace(_refused(f"the candidate cannot be served: {error}", work), outcome="fail")
        return CycleResult(version=work.candidate, verdict=verdict, anchor=False)
    policy, verdict, anchor = judge_challenger(work.training, work.settings, frozen, candidate, lineage, None)
    reach("cycle.fitted")
    tell("publishing", None)
    manifest = msgspec.structs.replace(
        opened.manifest,
        kind="candidate",
        parent=work.champion,
        created_s=work.now_s,
        verdict=verdict,
        policy=policy,
        student=candidate.student.with_policy(policy).told(opened.manifest.student),
        topics=_topics(work, frozen),
    )
    if champion is not None and (why := answers_alike(opened.folder, manifest, champion)) is not None:
        return CycleResult(version=work.candidate, verdict=_refused(why, work), anchor=False)
    version = versions.publish(opened.folder, manifest, SigningKey.load(work.signing_key))
    reach("cycle.published")
    return CycleResult(version=version, verdict=verdict, anchor=anchor)


def _topics(work: CycleWork, frozen: Frozen) -> list[Topic]:
    return list(topics_of(frozen, seed=work.settings.seed).topics)


def _nothing_to_learn(error: Exception, items: Sequence[Item], work: CycleWork) -> Verdict:
    """A verdict that says why there are no rows, and what to do about it."""
    census = count(items, drawing_of(work.training, work.settings, work.now_s))
    verdict = _too_little(str(error), work)
    return msgspec.structs.replace(verdict, refusals=[str(error), *advice(census), *waits(census)])


def _refused(reason: str, work: CycleWork) -> Verdict:
    """A verdict that no number of rows would change."""
    return msgspec.structs.replace(_too_little(reason, work), rows_needed=0)


def _too_little(reason: str, work: CycleWork) -> Verdict:
    return Verdict(
        outcome="inconclusive",
        phase="first" if work.champion is None else "growth",
        refusals=[reason],
        rows_judged=0,
        student_agreement=None,
        difference=None,
        lower=None,
        upper=None,
        delta=work.settings.limits.delta,
        rows_needed=rows_to_certify(work.training.target, work.training.confidence),
        slices=[],
    )
