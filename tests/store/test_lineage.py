"""Audits of versions that answer alike are counted together, and of no others."""

from pathlib import Path
from typing import Any

import pytest

from store.buffer.ledger import AuditTally
from store.policy import Policy
from store.registry.lineage import Audited
from store.registry.students.records import Golden
from tests.store.drafts import make_draft, make_manifest, make_versions

POLICY: dict[str, Any] = {
    "temperature": 1.5,
    "threshold": 0.8,
    "novelty_threshold": 0.4,
    "target": 0.9,
    "confidence_level": 0.95,
    "coverage_ratio": 0.6,
    "rows": 300,
    "lower": 0.91,
}


@pytest.mark.parametrize(
    ("change", "head", "alike"),
    [
        ({"created_s": 5.0, "parent": "0" * 16, "kind": "candidate"}, b"head one", True),
        ({"policy": Policy(**{**POLICY, "rows": 900, "lower": 0.93})}, b"head one", True),
        ({"golden": [Golden(text="another", probs=[0.5, 0.5])]}, b"head one", True),
        ({"policy": Policy(**{**POLICY, "threshold": 0.9})}, b"head one", False),
        ({"policy": Policy(**{**POLICY, "threshold": None})}, b"head one", False),
        ({"policy": Policy(**{**POLICY, "novelty_threshold": None})}, b"head one", False),
        ({"policy": Policy(**{**POLICY, "temperature": 1.0})}, b"head one", False),
        ({"policy": None}, b"head one", False),
        ({"labels": ["cancel", "refund"]}, b"head one", False),
        ({"pool_weights": [0.5]}, b"head one", False),
        ({}, b"head two", False),
    ],
)
def test_audits_go_on_counting_for_equal_weights_under_an_equal_policy_alone(
    tmp_path: Path, change: dict[str, Any], head: bytes, *, alike: bool
) -> None:
    versions, key = make_versions(tmp_path)
    policy = Policy(**POLICY)
    first = versions.publish(make_draft(tmp_path / "one"), make_manifest(policy=policy), key)
    draft = make_draft(tmp_path / "two", head=head)
    (draft / "snapshot.json").write_bytes(b"{}")  # the rows it came from are nothing that it answers by
    second = versions.publish(draft, make_manifest(**{"policy": policy, "seed": 8, **change}), key)
    tallies = {first: AuditTally(audits=200, agreed=190), second: AuditTally(audits=10, agreed=9)}
    found = Audited(versions).of(second, tallies)
    assert found == (AuditTally(audits=210, agreed=199) if alike else AuditTally(audits=10, agreed=9))


def test_versions_that_are_gone_or_unknown_are_like_no_other(tmp_path: Path) -> None:
    versions, key = make_versions(tmp_path)
    version = versions.publish(make_draft(tmp_path / "one"), make_manifest(), key)
    tallies = {"f" * 16: AuditTally(audits=7, agreed=7), "no id": AuditTally(audits=7, agreed=7)}
    audited = Audited(versions)
    assert audited.of(version, tallies) == AuditTally()
    assert audited.of("f" * 16, tallies) == AuditTally(audits=7, agreed=7)
    assert audited.of(None, tallies) == AuditTally()
