"""Puts ingest together: a loop for each use case, and what it has to know of the lanes."""

import secrets
from collections.abc import Mapping, Sequence
from random import Random

import redis

from ops.answers.reading import Reading
from ops.open_log import log_login, remaker
from ops.sections import LaneSection
from ops.site import Site
from ops.wiring.checks import every
from ops.wiring.tracing import check_tracing
from store.answers.rulings import Ruling, rules_of
from store.buffer.ledger import Buffer, Claim, LogSlot
from store.buffer.repair.lists import LabelList, Lists, ListsHeld, former_lanes
from store.errors import RegistryError, SettingsError, StoreUnavailableError
from store.event import Lane, wall_clock_s
from store.log.lazy import logger
from store.tasks.tasks import BEFORE_NOTES
from store.tracing.spans import OFF, Tracer
from stream.embedded.log import EmbeddedLog
from stream.ingest import Ingest, IngestSettings, LaneKeys
from stream.log import Appender, Source, topic_of
from stream.metrics import IngestMetrics

_log = logger(__name__)


def check_ingest(site: Site) -> None:
    """See that all that the settings name for ingest can be read, before it waits for anything.

    Raises:
        SettingsError: something cannot; the message names every such key, a line each.
    """
    every(lambda: site.secret, lambda: log_login(site), lambda: check_tracing(site))


def ingest(
    site: Site,
    client: redis.Redis,
    appender: Appender,
    use_case: str,
    owner: str,
    metrics: IngestMetrics,
    tracer: Tracer = OFF,
) -> Ingest:
    """One use case's ingest loop."""
    buffer, lanes = site.buffer(client), lane_keys(site, use_case, _lists_held(client, use_case))
    return Ingest(
        _source(site, client, buffer, use_case, owner, lanes),
        buffer,
        appender,
        use_case=use_case,
        lanes=lanes,
        secret=site.secret,
        settings=IngestSettings(),
        metrics=metrics,
        rng=Random(secrets.randbits(128)),  # noqa: S311 - jitter
        tracer=tracer,
    )


def lane_keys(site: Site, use_case: str, held: Sequence[ListsHeld] = ()) -> dict[Lane, LaneKeys]:
    """What ingest has to know of the lanes of a use case; `held` as of `Reading.rules_by`."""
    return {
        section.lane: _keys_of(site, section, held) for section in site.settings.lanes if section.use_case == use_case
    }


def former_keys(site: Site, use_case: str, held: Sequence[ListsHeld]) -> dict[Lane, LaneKeys]:
    """The same of lanes that were taken out of the settings, as far as ingest has noted it; for what is read anew."""
    present = [section.lane for section in site.settings.lanes]
    return {
        lane: LaneKeys(
            lane_key=site.secret.lane_key(lane),
            redaction_key=site.secret.redaction_key(lane),
            subject_key=site.secret.subject_key(lane),
            task=noted.task or BEFORE_NOTES[0],
            training_permitted=noted.training_permitted is not False,
            terms=noted.terms,
        )
        for lane, noted in former_lanes(held, present).items()
        if lane.use_case == use_case
    }


def _keys_of(site: Site, section: LaneSection, held: Sequence[ListsHeld]) -> LaneKeys:
    rulings = _rulings(site, section.lane)
    return LaneKeys(
        lane_key=site.secret.lane_key(section.lane),
        redaction_key=site.secret.redaction_key(section.lane),
        subject_key=site.secret.subject_key(section.lane),
        task=section.task,
        training_permitted=section.training_permitted,
        terms=section.terms(rules_of(rulings or ()).earlier),
        prompts=() if rulings is None else _counting(section, rulings, held),
    )


def _rulings(site: Site, lane: Lane) -> list[Ruling] | None:
    """None where they cannot be read: events with labels that they tell of are dead letters then."""
    try:
        return site.rulings(lane)
    except (RegistryError, SettingsError, OSError) as error:
        _log.error("rulings cannot be read: labels that they tell of are off the list", lane=str(lane), why=str(error))
        return None


def _counting(section: LaneSection, rulings: Sequence[Ruling], held: Sequence[ListsHeld]) -> tuple[str, ...]:
    """Under what answers of the lane count, the present prompt first; none where ingest cannot tell."""
    try:
        reading = Reading.of(section)
        return (reading.key(), *sorted(reading.rules_by(rulings, held).prompts - {reading.key()}))
    except (SettingsError, OSError):
        return ()


def _lists_held(client: redis.Redis, use_case: str) -> list[ListsHeld]:
    """None while Redis does not answer: ingest then warns of answers that count, and keeps them all the same."""
    try:
        return Lists(client).held(use_case)
    except StoreUnavailableError:
        return []


def _source(
    site: Site, client: redis.Redis, buffer: Buffer, use_case: str, owner: str, lanes: Mapping[Lane, LaneKeys]
) -> Source:
    topic, lists = topic_of(use_case), Lists(client)
    read_by = {
        lane: LabelList.of(keys.terms, keys.task, training_permitted=keys.training_permitted)
        for lane, keys in lanes.items()
    }

    def claim(slot: LogSlot) -> Claim:
        claimed = buffer.claim(use_case, slot, owner)
        lists.note(use_case, slot, claimed, read_by, now_s=wall_clock_s())  # before anything is applied under it
        return claimed

    remake = remaker(site, client)
    if site.settings.log.kind == "kafka":
        from ops.brokers.kafka import kafka_settings  # noqa: PLC0415 - Kafka's client, where there is a Kafka
        from stream.kafka.source import KafkaSource  # noqa: PLC0415 - as above

        return KafkaSource(kafka_settings(site), topic, claim, remake=remake)
    lease_s = site.settings.log.lease_s
    return EmbeddedLog(client).source(topic, owner=owner, claim=claim, lease_s=lease_s, remake=remake)
