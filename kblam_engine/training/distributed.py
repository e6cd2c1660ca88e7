"""Several processes, on one machine or many, that train one adapter; the only module that imports accelerate.

Started by torchrun or ``accelerate launch``, every process runs the same program with the same seed, so all of them
draw the same batches. Each reads its share of a batch, and the gradients are added up: the run gives what one process
would give, up to rounding. The first process alone works on what cannot be shared, and writes the files.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from kblam_engine.errors import MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait for each other: the stages before the native tokens are the first process's work alone."""


@dataclass(frozen=True)
class Processes:
    """What a process knows of the run's processes; as it is by default, it is alone and exchanges nothing.

    Attributes:
        rank: of this process, from 0.
        n: how many there are.
        device: this process's own, cpu or cuda:N; None for a process that is alone, which may choose.
    """

    rank: int = 0
    n: int = 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    def parts(self, items: Sequence[T], n: int = 1) -> list[Sequence[T]]:
        """Return this process's share of the items, in at most ``n`` parts of which none is empty."""
        ways = self.n * n
        return [part for i in range(self.rank, ways, self.n) if (part := items[i::ways])]

    def add_up(self, number: float) -> float:
        """Return the sum of all processes' numbers, the same in each."""
        if self.n == 1:
            return number
        import torch

        return float(_accelerate().reduce(torch.tensor(number, device=self.device, dtype=torch.float64), "sum"))

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes; a process that has none counts as zero."""
        if self.n == 1:
            return
        import torch

        trained = [p for p in parameters if p.requires_grad]
        # One vector: a single exchange costs less than one per parameter.
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        total: Tensor = _accelerate().reduce(torch.cat([g.flatten() for g in own]), "sum")
        for parameter, gradient in zip(trained, torch.split(total, [p.numel() for p in trained]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def from_main(self, work: Callable[[], T]) -> T:
        """Return in every process what ``work`` returns in the first, which alone calls it; the others wait."""
        if self.n == 1:
            return work()
        told = [work() if self.is_main else None]
        result: T = _accelerate().broadcast_object_list(told)[0]
        return result

    def broadcast(self, module: nn.Module) -> None:
        """Give the module of every process the tensors that it has in the first."""
        if self.n == 1:
            return
        for tensor in module.state_dict().values():
            tensor.copy_(_accelerate().broadcast(tensor.to(self.device)))


def start() -> Processes:
    """Meet the other processes of a launcher, if the environment tells of any.

    Returns:
        What this process knows of them. Their devices are GPUs where torch sees some, else the CPU.

    Raises:
        MissingDependencyError: there are several processes, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    _accelerate()
    import torch
    from accelerate import PartialState

    joined = torch.distributed.is_initialized()
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if not joined and torch.distributed.is_initialized():  # whoever else made the group will also leave it
        atexit.register(state.destroy_process_group)
    # accelerate numbers the CPU too: "cpu:0".
    device = "cpu" if state.device.type == "cpu" else str(state.device)
    return Processes(state.process_index, state.num_processes, device)


def is_main() -> bool:
    """Return whether this process is the one that reports and writes, before it has met the others."""
    return int(os.environ.get("RANK", "0")) == 0


def _accelerate() -> Any:
    try:
        from accelerate import utils
    except ImportError as error:
        raise MissingDependencyError(
            "training in several processes needs the package accelerate: pip install accelerate"
        ) from error
    return utils
