"""A training step as one CUDA graph: recorded once, then launched with a single call.

A step of a small network is hundreds of kernels of a few microseconds each. Launching them one by one
takes the host longer than the GPU needs to run them. A graph is launched with one call, but its contents
are fixed. Values that change from step to step are therefore in tensors that stay in place: the batch,
the learning rates, and the learner's random numbers (its masks are drawn from them on the device).
Torch passes a new dropout seed at each replay, so dropout draws as it does without a graph.

The Python code of a step runs only during warm-up and recording. So a loss must not draw random
numbers on the host, read values back, or behave differently from call to call.
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
"""Steps before the recording, in which libraries choose algorithms, compilers compile, and caches fill.
PyTorch's documentation recommends 3, or 11 for DistributedDataParallel, which is not used here."""


def check_capture(options: TrainOptions, device: torch.device, processes: int, searching: EdgeLearner | None) -> None:
    """Check that the steps of a run can be captured, if the options ask for it.

    Args:
        options: Training options.
        device: The device that the run uses.
        processes: The number of processes that train together.
        searching: The learner, if the run has a search phase.

    Raises:
        OptionError: The steps cannot be captured.
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
    """A step that is captured at its first call, and replayed at that call and every later one.

    Args:
        compute: Function of images and targets that takes a training step and returns a scalar, and does not wait for
            the device.
        net: The network that it trains, with the learner inside.
        optimizers: The optimisers that it uses, with learning rates as
            :func:`topolearn.training.optim.make_capturable` sets them.
        learner: The learner. The caller makes its draw before each call; the call ends the draw.
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
            OptionError: The step cannot be captured, or the batch has another size than the first.
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
            return self._loss.clone()  # the next replay overwrites it

    def _capture(self, images: Tensor, targets: Tensor) -> torch.cuda.CUDAGraph:
        self._images, self._targets = images.clone(), targets.clone()
        # Warm-up and recording share one stream, not the default one: a backward pass runs on its forward's stream.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with global_state_kept():
            with _state_kept(self._net, self._optimizers):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP):
                        self._compute(self._images, self._targets)
                torch.cuda.current_stream().wait_stream(stream)
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)  # the gradients must be allocated in the graph's own memory
            graph = torch.cuda.CUDAGraph()
            before = _host_generators()
            try:
                # Other threads, such as one that pins the batches of a DataLoader, may continue meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    self._loss = self._compute(self._images, self._targets)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # The end of a failed capture raises a second error; the first one (its context) holds the reason.
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
    """Return the state of the global generators on the host, for comparison."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@contextmanager
def _state_kept(net: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Restore the network (learner and draw included) and the optimisers on exit, in place.

    Optimiser state that was created meanwhile is set to 0. For ``sgd`` and ``adamw`` that is the same as not
    having it yet.
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
    """Return all tensors in the state of the optimisers."""
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]
