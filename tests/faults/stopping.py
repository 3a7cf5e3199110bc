"""A real gateway with a slow student, in a process of its own, for tests that stop it in the middle of its work.

Run as `python -m tests.faults.stopping SETTINGS STUDENT_S CUT_S`. Everything is as `understudy run serve` has it, but
for the version, whose forward pass computes for so many seconds in C++, and for how soon requests in flight are cut.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ops.cli.app import main
from ops.processes.run import serve as run
from ops.wiring import serve as wiring
from serve.student.loads import Versions
from serve.tasks.classify.face import Classify
from store.event import TaskInput
from store.student.loaded import LabelOpinion
from tests.serve.fakes import FakeStanding, FakeStudent

VERSION = "slow"
LABELS = ("refund", "delivery", "other")


class SlowStudent(FakeStudent):
    """Multiplies matrices for a while before it answers."""

    def __init__(self, seconds: float) -> None:
        super().__init__(labels=LABELS)
        self.seconds = seconds

    def look(self, inputs: Sequence[TaskInput]) -> list[LabelOpinion]:
        deadline_s = time.monotonic() + (self.seconds if inputs[0] != Classify.sample else 0.0)
        matrix = torch.ones(1500, 1500)
        while time.monotonic() < deadline_s:
            matrix = matrix @ matrix
        return super().look(inputs)


def versions(seconds: float) -> Versions:
    """A registry with one version, which is slow."""
    return Versions(
        standing=lambda: FakeStanding(VERSION),
        size_bytes=lambda _: 1000,
        load=lambda _: SlowStudent(seconds),
        available_bytes=lambda: 1 << 40,
    )


if __name__ == "__main__":
    settings, student_s, cut_s = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    wiring.lane_versions = lambda *_: versions(student_s)
    run._CUT_S = cut_s  # type: ignore[misc]
    sys.argv = ["understudy", "run", "serve", "--config", str(settings)]
    main()
