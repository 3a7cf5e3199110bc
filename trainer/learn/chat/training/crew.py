"""The processes that train one model together: who has which rows, and how weights and gradients are shared.

Every rank reads the same batches in the same order and takes each `size`-th row of one. The losses are divided by what
the whole step holds, so the sum over the ranks is the gradient of the step, however many they are. Both ways of sharing
give the mean over the ranks; `scale` makes it the sum.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Strategy = Literal["ddp", "fsdp"]
"""ddp: each rank holds the whole model. fsdp: each holds its share of the layers, and borrows the rest one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """One rank, as it sees all of them."""

    rank: int = 0
    size: int = 1
    strategy: Strategy | None = None
    device: torch.device | None = None  # this rank's own; None: where the weights are

    @property
    def shares_prefixes(self) -> bool:
        """Whether rows may read what they begin with from one pass.

        Layers that are borrowed are given back once they have run: no gradient may come to them through keys and values
        beside their output.
        """
        return self.strategy != "fsdp"

    @property
    def scale(self) -> float:
        """What a loss is multiplied with, so that the ranks' mean is their sum."""
        return float(self.size)

    def own(self, places: Sequence[int]) -> list[tuple[int, bool]]:
        """This rank's rows of a batch, as many as any other's; with False, a row that fills up and counts for nothing.

        Ranks must come to the same collective calls, the one whose rows have run out as well.
        """
        most = -(-len(places) // self.size)
        mine = list(places[self.rank :: self.size])
        return [(place, True) for place in mine] + [(places[0], False)] * (most - len(mine))

    def spread(self, step: nn.Module, layers: Sequence[nn.Module]) -> Any:
        """A module over all ranks.

        Args:
            step: gives a loss, and holds all that is trained.
            layers: of it; each is a unit that is borrowed by itself.
        """
        if self.strategy is None:
            return step
        if self.strategy == "ddp":
            return DistributedDataParallel(step, forward_sync_buffers=False)
        mesh = init_device_mesh("cpu" if self.device is None else self.device.type, (self.size,))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        owned = {id(one) for layer in layers for one in layer.parameters()}
        rest = {
            one for one in step.parameters() if id(one) not in owned
        }  # norm and head: frozen, and wanted throughout
        return fully_shard(step, mesh=mesh, ignored_params=rest)

    def gathering(self, step: Any, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients of a part of a step; with the last one they are summed over the ranks."""
        if self.strategy == "ddp" and not is_last:
            quiet: AbstractContextManager[None] = step.no_sync()
            return quiet
        return nullcontext()

    def all_of(self, said: bool) -> list[bool]:  # noqa: FBT001 - a vote
        """What each rank says, by rank."""
        if self.size == 1:
            return [said]
        found = [False] * self.size
        dist.all_gather_object(found, said)
        return found


ALONE: Final = Crew()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, whichever rank asks: every rank must."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def part_like(found: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, the part that this rank holds of another one like it."""
    found = found.to(like.device)
    if not isinstance(like, DTensor):
        return found
    return distribute_tensor(found, like.device_mesh, like.placements)


@contextmanager
def joined(strategy: Strategy, *, device: str, timeout_s: float) -> Iterator[Crew]:
    """Join the other ranks of this machine, each on a device of its own where there are any.

    Args:
        strategy: how the model is shared.
        device: `cpu` or `cuda`.
        timeout_s: a rank that does not come to a collective call for so long has failed.
    """
    state = PartialState(cpu=device == "cpu", timeout=timedelta(seconds=timeout_s))
    try:
        yield Crew(rank=state.process_index, size=state.num_processes, strategy=strategy, device=state.device)
    finally:
        state.destroy_process_group()
