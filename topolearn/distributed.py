"""Training in several processes: each computes a part of every batch, and all take the same step.

Start it with ``torchrun --nproc-per-node N -m topolearn fit …``, or call
``torch.distributed.init_process_group`` in your program before ``fit``.

- ``batch_size`` counts the images of a step over all processes.
- PyTorch's ``DistributedDataParallel`` averages the gradients over all images of the batch during the backward
  pass, including those of the edge learner (MaskConnect's straight-through gradient). So every process takes the
  same step. A loss that is not a mean over images (a mean over labelled pixels, say) becomes the mean of the parts.
- Every process draws the same masks. All start with the state of process 0, including its random
  generators, and draw once per step. Only then does each seed its own other random numbers (dropout).
- Batch normalisation sees the part of its own process. The running statistics of process 0 are kept,
  and all processes evaluate with them.
- Validation batches are divided too; loss and metrics cover all of them.
- Only process 0 writes files, shows progress and calls callbacks. All processes read the data, and the
  folder of a finished run.

Each phase of a run makes its own ``DistributedDataParallel``, and only the training step knows of it. All else sees the
network itself.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from topolearn.errors import OptionError, TopolearnError, TrainingError
from topolearn.samples import Data
from topolearn.samples.base import Tensors, each, listed

_T = TypeVar("_T")

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher such as torchrun sets."""

_TIMEOUT = timedelta(days=7)
"""Longest wait for another process. A dead one is noticed at once; one that measures or compiles may take hours."""

_BUCKET = 1 << 24
"""Largest number of elements sent at once. They are copied into one tensor, so this limits its memory."""


@dataclass(frozen=True)
class World:
    """The processes that train together.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which writes."""
        return self.rank == 0

    def from_main(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` in process 0, and return its result or raise its TopolearnError in every process."""
        if self.size == 1:
            return function()
        sent: list[tuple[_T | None, TopolearnError | None]] = [(None, None)]
        if self.is_main:
            try:
                sent = [(function(), None)]
            except TopolearnError as error:
                sent = [(None, error)]
        with _connected():
            dist.broadcast_object_list(sent)
        value, failure = sent[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]  # None only if the function returns None

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is true in any process."""
        if self.size == 1:
            return flag
        flags = torch.full((), float(flag), device=device)
        self.sum([flags])
        return bool(flags > 0)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size > 1:
            _exchange(tensors, dist.all_reduce)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of process 0."""
        if self.size > 1:
            _exchange(tensors, lambda flat: dist.broadcast(flat, 0))

    def share_state(self, module: nn.Module) -> None:
        """Copy the state of a module from process 0 to every process, including its random generators."""
        if self.size > 1:
            own = module.state_dict().items()
            state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in own}
            module.load_state_dict(self.from_main(lambda: state))

    def parallel(self, net: nn.Module, inputs: Tensors) -> nn.Module:
        """Return a module that calls a network, and averages its gradients over all processes in the backward pass.

        Args:
            net: The network. Parameters that are frozen later still take part.
            inputs: Some inputs. The network runs on a few of them, to find parameters without a gradient.
        """
        trained = [p for p in net.parameters() if p.requires_grad]
        if self.size == 1 or not trained:
            return net
        unused = _unused(net, inputs)
        for parameter in unused:
            parameter.requires_grad_(False)  # DistributedDataParallel would wait for its gradient for ever
        with _connected():
            wrapped = DistributedDataParallel(net)
        for parameter in unused:
            parameter.requires_grad_(True)
        return wrapped

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context for a forward or backward pass in which processes exchange tensors."""
        with _connected(_is_exchange) if self.size > 1 else nullcontext():
            yield

    def mean(self, loss: Tensor, images: int) -> tuple[Tensor, Tensor | float]:
        """Average a loss over the images of all processes.

        Args:
            loss: The mean loss over this process's images, a scalar.
            images: The number of this process's images.

        Returns:
            The mean loss over the images of all processes; and the factor on ``loss`` for which the mean of the
            gradients over processes is the gradient of that: images x processes / all images.
        """
        if self.size == 1:
            return loss.detach(), 1.0
        own = loss.detach().float()
        numbers = torch.stack([own * images, torch.full_like(own, images)])
        self.sum([numbers])
        return numbers[0] / numbers[1], self.size * images / numbers[1]

    def totals(self, sums: Mapping[str, Tensor], count: int) -> tuple[dict[str, float], int]:
        """Return the sums over samples and the number of samples, added up over all processes."""
        if self.size == 1 or not sums:
            return {name: float(value) for name, value in sums.items()}, count
        first = next(iter(sums.values()))
        values = torch.stack([*sums.values(), torch.full_like(first, count)])
        self.sum([values])
        *totals, total = values.tolist()
        return dict(zip(sums, totals, strict=True)), round(total)

    def divide(self, data: Data, batch_size: int) -> Data:
        """Return the data with only this process's part of every batch.

        Raises:
            TopolearnError: The batches are too small for so many processes, or the data cannot be divided.
        """
        if self.size == 1:
            return data
        part = data.part(self.rank, self.size)
        smallest = min(batch_size, data.train_size, data.val_size)
        if smallest < self.size:
            raise OptionError(
                f"{self.size} processes cannot share a batch of {smallest} images; start fewer, or set 'batch_size' to"
                f" {self.size} or more"
            )
        return part


ALONE = World()
"""The world of a single process that trains by itself."""


@contextmanager
def world_of(device: str | torch.device) -> Iterator[tuple[World, str | torch.device]]:
    """Context that gives the processes that train together, and the device of this one.

    They are the processes of the process group, if there is one. If a launcher has started several, a group is
    made for them until the context ends. Else it is this process alone.

    Args:
        device: The requested device. If several processes train, ``auto`` and ``cuda`` give each its own GPU.

    Raises:
        OptionError: There are more processes than GPUs.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size()), _own_device(device, dist.get_world_size())
        return
    size = launched()[1]
    if size == 1:
        yield ALONE, device
        return
    own = _own_device(device, size)
    with _connected():
        on_gpu = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    yield World(dist.get_rank(), dist.get_world_size()), own
    # Not after an error: this can wait for ever for processes that have stopped.
    dist.destroy_process_group()


def launched() -> tuple[int, int]:
    """Return (rank, number of processes) as a launcher such as torchrun has set them; (0, 1) without a launcher."""
    if not dist.is_available() or any(name not in os.environ for name in _LAUNCHED):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def is_main() -> bool:
    """Whether this process is number 0, which writes and prints."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return launched()[0] == 0


def _own_device(device: str | torch.device, size: int) -> str | torch.device:
    if size == 1 or str(device) not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    number = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    if number >= torch.cuda.device_count():
        raise OptionError(
            f"process {number} of this machine has no GPU: this machine has only {torch.cuda.device_count()};"
            " start as many processes as there are GPUs, or set the device to 'cpu'"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _unused(net: nn.Module, inputs: Tensors) -> list[nn.Parameter]:
    """Return the parameters that a training step gives no gradient: an unused layer of somebody's own module."""
    probe = copy.deepcopy(net)
    with torch.random.fork_rng(list({p.device for p in net.parameters() if p.is_cuda})):
        outputs = listed(probe(each(inputs, lambda values: values[:2])))
        torch.autograd.backward([output.float().sum() for output in outputs if output.requires_grad])
    pairs = zip(net.parameters(), probe.parameters(), strict=True)
    return [own for own, tried in pairs if own.requires_grad and tried.grad is None]


def _is_exchange(error: RuntimeError) -> bool:
    """Whether an error comes from sending tensors, not from the network or the loss."""
    return isinstance(error, dist.DistError) or any(name in str(error).lower() for name in ("gloo", "nccl"))


@contextmanager
def _connected(is_exchange: Callable[[RuntimeError], bool] = lambda _: True) -> Iterator[None]:
    """Turn a failed exchange into a TrainingError that says what it means."""
    try:
        yield
    except RuntimeError as error:
        if not is_exchange(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise TrainingError(
            f"another process of this run has stopped or cannot be reached ({reason}); see its output, then go on"
            " with --resume"
        ) from None


def _exchange(tensors: Iterable[Tensor], collective: Callable[[Tensor], object]) -> None:
    """Apply ``collective`` to all tensors in place, many at a time in one flat tensor."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    with torch.no_grad(), _connected():
        for bucket in (bucket for kind in kinds.values() for bucket in _buckets(kind)):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            collective(flat)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
