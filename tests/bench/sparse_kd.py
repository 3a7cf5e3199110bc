"""Time and peak memory of the sparse KL with a tail bucket: `python -m tests.bench.sparse_kd [--json]`.

Loss and gradient with respect to the states, from the head's projection on, for one batch of tokens with the teacher's
twenty likeliest tokens; the head is frozen. `ours` is `answer_loss` of the trainer's losses, `torch` the same formula
written plainly, with all logits at once. `liger` is Liger's fused linear JSD with a teacher of the same size, which
holds the teacher's whole distribution: it runs on a GPU alone, and where `liger_kernel` is installed. Each run has a
process of its own, whose peak is what it held at most above what it held before (on a GPU: what the allocator gave
out). Prints one JSON object as its last line; on a busy machine read cpu_s, not wall_s.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any, Final

import torch
from torch import Tensor

from trainer.learn.chat.training.losses import Heard, answer_loss

_NOT_HERE: Final = "not run here"
_KIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of the batch."""

    tokens: int
    vocabulary: int
    hidden: int
    k: int
    precision: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one process saw."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    loss: float


def plainly(states: Tensor, head: Tensor, heard: Heard) -> Tensor:
    """The same loss by torch's own functions and autograd."""
    logq = torch.log_softmax((states @ head.T).float(), dim=-1)
    p = heard.logprobs.exp()
    tail = (1.0 - p.sum(-1)).clamp(min=0.0)
    rest = logq.scatter(1, heard.ids, -torch.inf).logsumexp(-1)
    on = (torch.xlogy(p, p) - p * logq.gather(1, heard.ids)).sum(-1)
    return (on + torch.xlogy(tail, tail) - tail * rest).sum()


def ours(states: Tensor, head: Tensor, heard: Heard) -> Tensor:
    """The trainer's."""
    text = torch.zeros(len(states), device=states.device)
    return answer_loss(states, head, heard, text=text, distribution=torch.ones_like(text))


def liger(states: Tensor, head: Tensor, _heard: Heard) -> Tensor:
    """Liger's, with beta 0 (forward KL) and a teacher of the same size."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD  # type: ignore[import-not-found]  # noqa: PLC0415 - only on a GPU

    teacher = torch.randn_like(states.detach())
    loss: Tensor = LigerFusedLinearJSD(jsd_beta=0.0)(states, head, teacher, head)
    return loss


SIDES: Final[dict[str, Callable[[Tensor, Tensor, Heard], Tensor]]] = {"ours": ours, "torch": plainly, "liger": liger}


def run(side: str, size: Size) -> Run:
    """Loss and gradient, once to warm up with few tokens and once to be measured."""
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
    rng = torch.Generator().manual_seed(0)
    head = (torch.randn(size.vocabulary, size.hidden, generator=rng) / size.hidden**0.5).to(size.device, dtype)
    states = torch.randn(size.tokens, size.hidden, generator=rng).to(size.device, dtype)
    ids = torch.randint(size.vocabulary // size.k, (size.tokens, size.k), generator=rng)
    ids = (ids * size.k + torch.arange(size.k)).to(size.device)  # k different ones
    said = torch.randn(size.tokens, size.k, generator=rng).log_softmax(-1) - 0.2
    heard = Heard(ids=ids, logprobs=said.to(size.device))
    few = Heard(ids=ids[:8], logprobs=heard.logprobs[:8])
    SIDES[side](states[:8].clone().requires_grad_(), head, few).backward()  # type: ignore[no-untyped-call]
    is_gpu = size.device == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    before = torch.cuda.memory_allocated() if is_gpu else _most_held()
    wall, cpu = time.perf_counter(), time.process_time()
    states.requires_grad_()
    loss = SIDES[side](states, head, heard)
    loss.backward()  # type: ignore[no-untyped-call]
    if is_gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated() if is_gpu else _most_held()
    return Run(wall_s=wall, cpu_s=cpu, peak_bytes=peak - before, loss=float(loss.detach()) / size.tokens)


def _most_held() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Medians."""
    return {
        "wall_s": round(statistics.median(one.wall_s for one in runs), 3),
        "cpu_s": round(statistics.median(one.cpu_s for one in runs), 3),
        "peak_mib": round(statistics.median(one.peak_bytes for one in runs) / _KIB**2, 1),
        "loss": round(runs[0].loss, 5),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sides in turns and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    is_gpu = torch.cuda.is_available()
    size = Size(
        tokens=asked.tokens,
        vocabulary=asked.vocabulary,
        hidden=asked.hidden,
        k=asked.k,
        precision=asked.precision,
        device="cuda" if is_gpu else "cpu",
    )
    sides = [name for name in SIDES if name != "liger" or (is_gpu and find_spec("liger_kernel") is not None)]
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(asked.repeats):
        for name in sides:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                runs[name].append(fresh.submit(run, name, size).result())
            if not asked.json:
                sys.stdout.write(f"{name}: {runs[name][-1]}\n")
    found: dict[str, Any] = {name: summary(runs[name]) if name in runs else _NOT_HERE for name in SIDES}
    pairs = list(zip(runs["torch"], runs["ours"], strict=True))
    found["torch_over_ours"] = {
        "wall": round(statistics.median(one.wall_s / own.wall_s for one, own in pairs), 2),
        "cpu": round(statistics.median(one.cpu_s / own.cpu_s for one, own in pairs), 2),
        "peak": round(statistics.median(one.peak_bytes / own.peak_bytes for one, own in pairs), 1),
    }
    found["size"] = {
        name: getattr(size, name) for name in ("tokens", "vocabulary", "hidden", "k", "precision", "device")
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
