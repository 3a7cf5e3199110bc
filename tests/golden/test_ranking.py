"""Versions of `rank` that earlier releases made load, and answer as they did."""

from pathlib import Path

import pytest

from store.student.loaded import RankOpinion
from store.student.tasks import load
from tests.golden.ranking import FOLDER, kept_answers, kept_version
from tests.golden.write import HERE, release

RELEASES = sorted(path for path in HERE.iterdir() if (path / FOLDER).is_dir())


def test_this_release_has_one() -> None:
    assert release() in RELEASES


@pytest.mark.parametrize("kept", RELEASES, ids=lambda path: str(path.name))
def test_it_answers_as_it_did(kept: Path) -> None:
    student = load(kept_version(kept), device="cpu", precision="fp32")
    assert student.check_golden() <= student.golden_tolerance
    answers = kept_answers(kept)
    for opinion, (_, said) in zip(student.look([value for value, _ in answers]), answers, strict=True):
        assert isinstance(opinion, RankOpinion)
        assert opinion.order == said["order"]
        assert opinion.scores == pytest.approx(said["scores"], abs=1e-3)
        assert opinion.confidence == pytest.approx(said["confidence"], abs=0.05)
        assert opinion.novelty == pytest.approx(said["novelty"], abs=1e-3)
