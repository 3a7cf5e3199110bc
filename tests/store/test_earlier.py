"""Manifests of earlier releases are read as today's, whatever they kept of how a student was made."""

from typing import Any

import msgspec
import pytest

from store.errors import CorruptVersionError
from store.registry.manifest import canonical_json
from store.registry.sealed import decode_manifest
from store.registry.students.records import ClassifyRecord
from tests.store.drafts import make_manifest, of_schema_1


def of_old(**training: Any) -> ClassifyRecord:
    told = of_schema_1(make_manifest())
    record = decode_manifest(canonical_json({**told, "training": training})).student
    assert isinstance(record, ClassifyRecord)
    return record


def test_a_manifest_of_schema_1_says_what_its_release_said() -> None:
    made = {"recipe": "a" * 64, "precision": "bf16", "threads": 2, "rows": 9, "fine_tune": "warm", "tuned_rows": 7}
    manifest = make_manifest(**made, label_items={"refund": 5}, head_scale=0.5, mix_opinions=3)
    assert decode_manifest(canonical_json(of_schema_1(manifest))) == manifest


def test_what_a_release_kept_in_another_shape_is_not_known() -> None:
    odd = of_old(precision="fp8", threads="two", rows=None, fine_tune="half", tuned_rows=None, c=1.0)
    assert odd == of_old()
    assert (odd.labels, odd.precision, odd.fine_tune) == (["refund", "cancel"], None, "none")


def test_a_student_that_schema_1_did_not_know_is_refused() -> None:
    told = {**of_schema_1(make_manifest()), "task": "rank"}
    with pytest.raises(CorruptVersionError, match="not a manifest that this release reads"):
        decode_manifest(canonical_json(told))


def test_a_manifest_of_a_schema_to_come_is_refused() -> None:
    told = {**msgspec.json.decode(canonical_json(make_manifest())), "schema": 3}
    with pytest.raises(CorruptVersionError, match="not a manifest that this release reads"):
        decode_manifest(canonical_json(told))
