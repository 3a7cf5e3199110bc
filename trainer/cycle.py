"""One cycle: freeze, fit (or take a candidate), calibrate, judge, publish. Runs in the worker's process.

Nothing here moves the champion: the daemon does, once it has the verdict and still holds the lease. A cycle that is
killed leaves nothing behind that counts.
"""

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import redis
import torch

from store.buffer.item import Item
from store.buffer.redis import RedisBuffer
from store.buffer.topics import find_topics
from store.errors import BadSignatureError, CorruptVersionError, SwapRefusedError
from store.policy import Policy
from store.registry.manifest import Manifest, Topic, Verdict
from store.registry.signing import SigningKey, TrustedKeys
from store.registry.versions import Registry, Versions
from store.student.encoder import Precision
from store.student.student import PRECISION_KEY
from trainer.judge.calibrate import rows_to_certify
from trainer.judge.verdicts import SNAPSHOT_NAME, Frozen, Version, decide, open_version
from trainer.learn.draft import Draft
from trainer.learn.features import BaseEncoder, FeatureCache
from trainer.learn.fit import FineTuneMode, FitSettings, NotEnoughLabelsError, fit
from trainer.snapshot import freeze
from trainer.work import CycleResult, CycleWork


def work_on(work: CycleWork) -> CycleResult:
    """The worker's entry: open the stores, run one cycle."""
    torch.set_num_threads(work.settings.threads)
    lane = work.training.lane
    with redis.Redis.from_url(work.redis_url) as client:
        buffer = RedisBuffer(client, work.items_per_stratum)
        positions = {f"{slot.uuid}/{slot.partition}": at for slot, at in buffer.positions(lane.use_case).items()}
        items = list(buffer.items(lane))
    return run_cycle(work, items, positions)


def run_cycle(work: CycleWork, items: Sequence[Item], positions: Mapping[str, str]) -> CycleResult:
    """Run one cycle on these items.

    Args:
        work: what to do and where things lie.
        items: the lane's kept items.
        positions: "topic uuid/partition" -> position up to which the log had been applied.
    """
    registry = Registry(work.registry_root, TrustedKeys.load(work.trusted_keys))
    versions = registry.versions(work.training.lane)
    champion = open_version(versions, work.champion, work)
    frozen = _freeze(work, items, positions, champion)
    if work.kind == "candidate":
        return _judge_candidate(work, versions, registry, frozen, champion)
    try:
        draft = _fit(work, versions, frozen, champion)
    except NotEnoughLabelsError as error:
        return CycleResult(version=None, verdict=_too_little(str(error), work), anchor=False)
    student = draft.student()
    trained = frozenset(row.item_id for row in frozen.snapshot.split("train"))
    policy, verdict, anchor = decide(work, registry, frozen, student, trained, champion)
    folder = _kept(work) / "draft"
    shutil.rmtree(folder, ignore_errors=True)  # left over from a cycle that was killed
    folder.mkdir(parents=True)
    (folder / SNAPSHOT_NAME).write_bytes(frozen.snapshot.content)
    manifest = _manifest(work, frozen, draft, folder, policy, verdict)
    version = versions.publish(folder, manifest, SigningKey.load(work.signing_key))
    shutil.rmtree(folder)
    return CycleResult(version=version, verdict=verdict, anchor=anchor)


def _manifest(
    work: CycleWork, frozen: Frozen, draft: Draft, folder: Path, policy: Policy, verdict: Verdict
) -> Manifest:
    """Write the version's files into the folder and say of it what there is to say."""
    parts = draft.write(folder, policy)
    return Manifest(
        lane=work.training.lane,
        task=work.training.task,
        kind=parts.kind,
        parent=work.champion,
        created_s=work.now_s,
        code_version=work.code_version,
        seed=work.settings.seed,
        base=parts.base,
        served_parameters=parts.served_parameters,
        labels=parts.labels,
        preprocessing=parts.preprocessing,
        member_weights=parts.member_weights,
        training=parts.training,
        snapshot=frozen.snapshot.record,
        verdict=verdict,
        policy=policy,
        topics=_topics(work, frozen),
        golden=parts.golden,
        files={},
    )


def _freeze(work: CycleWork, items: Sequence[Item], positions: Mapping[str, str], champion: Version | None) -> Frozen:
    settings = work.settings
    snapshot = freeze(
        items,
        prompt_version=work.training.prompt_version,
        labels_min=settings.min_items_per_label,
        split=settings.split,
        quarantine_s=settings.quarantine_s,
        now_s=work.now_s,
        seed=settings.seed,
        positions=positions,
        known_labels=champion.student.labels if champion is not None else (),
    )
    base, cache = (
        _base(settings.encoder, settings.device, settings.precision, settings.max_tokens),
        _cache(_kept(work) / "features"),
    )
    ids, texts = [row.item_id for row in snapshot.rows], [row.text for row in snapshot.rows]
    return Frozen(snapshot=snapshot, base=base, features=cache.features(base.encoder, ids, texts))


def _kept(work: CycleWork) -> Path:
    """The lane's own folder of what can be made again."""
    return work.cache / work.training.lane.tenant / work.training.lane.use_case


@functools.cache
def _base(encoder: str, device: str, precision: Precision, max_tokens: int) -> BaseEncoder:
    """Loaded once in this process."""
    return BaseEncoder.open(encoder, device=device, precision=precision, max_tokens=max_tokens)


@functools.cache
def _cache(directory: Path) -> FeatureCache:
    """One for each lane: it forgets what a snapshot no longer holds."""
    return FeatureCache(directory)


def _fit(work: CycleWork, versions: Versions, frozen: Frozen, champion: Version | None) -> Draft:
    mode: FineTuneMode = "none"
    if work.kind == "fine_tune":
        mode = "warm" if champion is not None and champion.student.tuned is not None else "fresh"
    opinions = {row.first_opinion.opinion.version for row in frozen.snapshot.rows if row.first_opinion is not None}
    return fit(
        frozen.snapshot.rows,
        frozen.features,
        labels=frozen.snapshot.labels,
        base=frozen.base,
        previous=champion.student if champion is not None else None,
        settings=FitSettings(threads=work.settings.threads),
        seed=work.settings.seed,
        fine_tune=mode,
        label_maps={version: versions.manifest(version).labels for version in opinions & set(versions.list())},
    )


def _judge_candidate(
    work: CycleWork, versions: Versions, registry: Registry, frozen: Frozen, champion: Version | None
) -> CycleResult:
    """Judge a version that somebody submitted, exactly as one of our own."""
    try:
        candidate = open_version(versions, work.candidate, work)
    except (CorruptVersionError, BadSignatureError, SwapRefusedError) as error:
        verdict = msgspec.structs.replace(_too_little(f"the candidate cannot be loaded: {error}", work), outcome="fail")
        return CycleResult(version=work.candidate, verdict=verdict, anchor=False)
    if candidate is None:
        message = "a candidate cycle names no candidate"
        raise ValueError(message)
    policy, verdict, anchor = decide(work, registry, frozen, candidate.student, candidate.trained, champion)
    manifest = msgspec.structs.replace(
        candidate.opened.manifest,
        kind="candidate",
        parent=work.champion,
        created_s=work.now_s,
        verdict=verdict,
        policy=policy,
        training={**candidate.opened.manifest.training, PRECISION_KEY: candidate.student.encoder.precision},
        topics=_topics(work, frozen),
        golden=candidate.student.with_policy(policy).golden_outputs(),
    )
    version = versions.publish(candidate.opened.folder, manifest, SigningKey.load(work.signing_key))
    return CycleResult(version=version, verdict=verdict, anchor=anchor)


def _topics(work: CycleWork, frozen: Frozen) -> list[Topic]:
    rows = frozen.snapshot.rows
    found = find_topics(
        frozen.features[:, -frozen.base.encoder.hidden_size :],
        [row.text for row in rows],
        [row.requests for row in rows],
        [float(row.escalated) for row in rows],
        seed=work.settings.seed,
    )
    return list(found.topics)


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
