"""A training step as one CUDA graph: recorded once, then launched with a single call.

A small network's step is hundreds of kernels of a few microseconds each, so the host that launches
them one by one is slower than the GPU. A graph is launched at once. What it holds is fixed, so what
changes from step to step goes into tensors that stay where they are: the batch, the learning rates,
the learner's random numbers (its masks are drawn from them on the device). Dropout's seed is handed
over by torch at each replay, so dropout draws as it would without a graph.

The Python code of a step runs only while it is warmed up and recorded. So a loss must not draw random
numbers on the host, read values back, or do something else at each call.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from topolearn.errors import OptionError
from topolearn.learners import EdgeLearner
from topolearn.recipes.train_options import TrainOptions
from topolearn.samples.seeds import global_state_kept

_WARM_UP = 3
"""Steps before the recording: libraries choose algorithms, compilers compile, caches fill. As PyTorch's
documentation has it, 3 suffice, or 11 for DistributedDataParallel, which is not used here."""


def check_capture(options: TrainOptions, device: torch.device, processes: int, searching: EdgeLearner | None) -> None:
    """Check that the steps of a run can be captured, where they are to be.

    Args:
        options: Of training.
        device: Where it runs.
        processes: How many train together.
        searching: The learner, if the run has a phase in which it searches.

    Raises:
        OptionError: They cannot.
    """
    if not options.cuda_graph:
        return
    if device.type != "cuda":
        raise OptionError(f"'cuda_graph' needs a CUDA device, but this run is on device '{device}'; set it to false")
    if processes > 1:
        raise OptionError(f"'cuda_graph' is for one process, but {processes} train together; set it to false")
    if searching is not None and not searching.capturable:
        raise OptionError(
            f"learner '{searching.learner_name}' does not say that its step can be captured (its attribute"
            " 'capturable'; a cost or a budget rules it out); set 'cuda_graph' to false"
        )


class CapturedStep:
    """A step that is captured at its first call, and replayed at this and every later one.

    Args:
        compute: Takes images and targets, trains, gives a scalar; without a wait for the device.
        net: What it trains, with the learner inside.
        optimizers: What it trains that by; learning rates as in :func:`topolearn.training.optim.make_capturable`.
        learner: Its draw is made before each call, and ended by it.
    """

    def __init__(
        self,
        compute: Callable[[Tensor, Tensor], Tensor],
        net: nn.Module,
        optimizers: Sequence[Optimizer],
        learner: EdgeLearner | None,
    ) -> None:
        self._compute = compute
        self._net = net
        self._optimizers = optimizers
        self._learner = learner
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images: Tensor
        self._targets: Tensor
        self._loss: Tensor

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Take the step.

        Raises:
            OptionError: It cannot be captured, or the batch is of another size than the first.
        """
        with torch.cuda.device(images.device):
            if self._graph is None:
                self._graph = self._capture(images, targets)
            elif _layout(images, targets) != _layout(self._images, self._targets):
                raise OptionError(
                    f"'cuda_graph' needs batches of one size, but after {_layout(self._images, self._targets)} there is"
                    f" {_layout(images, targets)}; give the training DataLoader 'drop_last=True', or set it to false"
                )
            self._images.copy_(images, non_blocking=True)
            self._targets.copy_(targets, non_blocking=True)
            self._graph.replay()
            if self._learner is not None:
                self._learner.end_draw()
            return self._loss.clone()  # the next replay writes there again

    def _capture(self, images: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self._images, self._targets = images.clone(), targets.clone()
        # Both on one stream, not the default one: a backward pass runs on the streams of its forward pass.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with global_state_kept():
            with _state_kept(self._net, self._optimizers):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP):
                        self._compute(self._images, self._targets)
                torch.cuda.current_stream().wait_stream(stream)
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)  # the graph's gradients live in memory of its own
            graph = torch.cuda.CUDAGraph()
            before = _host_generators()
            try:
                # Other threads, such as one that pins the batches of a DataLoader, may go on meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._loss = self._compute(self._images, self._targets)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # Ending a capture that has failed raises an error of its own, after the one that says why.
                reason = str(error.__context__ or error).partition("\n")[0]
                raise OptionError(
                    f"the training step cannot be captured as a CUDA graph ({reason}); the loss and the learner must"
                    " not wait for the device or send anything to it; set 'cuda_graph' to false"
                ) from error
            if _host_generators() != before:
                raise OptionError(
                    "the loss or the learner draws random numbers on the host, which a captured step would not do"
                    " again; draw them on the device, or set 'cuda_graph' to false"
                )
        return graph


def _layout(images: Tensor, targets: Tensor) -> str:
    return " and ".join(f"{tuple(each.shape)} of {each.dtype}" for each in (images, targets))


def _host_generators() -> tuple[object, ...]:
    """The state of the global generators on the host, to compare."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@contextmanager
def _state_kept(net: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Put the network (learner and draw included) and the optimisers back where they were, in place.

    What an optimiser has made meanwhile is set to 0: with ``sgd`` and ``adamw`` that is the same as not
    to have it yet.
    """
    network = {name: copy.deepcopy(value) for name, value in net.state_dict().items()}
    before = {id(value): value.clone() for value in _tensors(optimizers)}
    yield
    net.load_state_dict(network)
    for value in _tensors(optimizers):
        if id(value) in before:
            value.copy_(before[id(value)])
        else:
            value.zero_()


def _tensors(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """All tensors of the optimisers' state."""
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
