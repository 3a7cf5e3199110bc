"""What a cluster says of a topic: how long it keeps records, in how many copies, and how large they may be."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from stream.kafka.cluster import KafkaSettings, admin, unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStanding:
    """One topic."""

    partitions: int
    copies: int  # of the partition that has the fewest
    in_sync: int  # of the partition that has the fewest
    min_in_sync: int  # copies without which no write is taken
    retention_ms: int  # -1: for ever
    retention_bytes: int  # of a partition; -1: no limit
    max_message_bytes: int  # of a batch
    compacted: bool  # older records of a key are deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStanding:
    """A cluster, and those of the topics that are there."""

    brokers: int
    topics: Mapping[str, TopicStanding]


def standing_of(settings: KafkaSettings, topics: list[str]) -> ClusterStanding:
    """Ask the cluster.

    Raises:
        LogUnavailableError: no broker answers, or we may not ask.
    """
    with closing(admin(settings)) as client:
        try:
            brokers = client.describe_cluster()["brokers"]
            there = {one["name"]: one["partitions"] for one in client.describe_topics(topics) if not one["error_code"]}
            asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
            configs = client.describe_configs(asked, config_filter="all")["topic"] if asked else {}
        except KafkaError as error:
            raise unavailable(error) from error
    found = {name: _topic(partitions, configs[name]) for name, partitions in there.items()}
    return ClusterStanding(brokers=len(brokers), topics=found)


def _topic(partitions: list[dict[str, Any]], config: Mapping[str, Mapping[str, Any]]) -> TopicStanding:
    said = {name: str(one["value"]) for name, one in config.items()}
    return TopicStanding(
        partitions=len(partitions),
        copies=min(len(one["replica_nodes"]) for one in partitions),
        in_sync=min(len(one["isr_nodes"]) for one in partitions),
        min_in_sync=int(said["min.insync.replicas"]),
        retention_ms=int(said["retention.ms"]),
        retention_bytes=int(said["retention.bytes"]),
        max_message_bytes=int(said["max.message.bytes"]),
        compacted="compact" in said["cleanup.policy"],
    )
