"""Captured steps: what is refused, what a capture leaves as it was, and on a GPU, what it computes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.data.toys import Noisy
from tests.ranks import plain
from tests.training.runs import Stopping, graph, pair, run, send, untimed
from topolearn.compiler import Network
from topolearn.errors import OptionError
from topolearn.learners import Continuous, EdgeLearner, Fixed, MaskConnect, SparseMask, make_learner
from topolearn.recipes import TrainOptions
from topolearn.runs import FitResult
from topolearn.samples.seeds import generator
from topolearn.training import capture, fitting, optimizers
from topolearn.training.capture import CapturedStep, check_capture
from topolearn.training.optim import load_saved_state, make_capturable, saved_state
from topolearn.training.step import TrainingStep

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CAPTURED = TrainOptions(cuda_graph=True)
LEARNERS = ("maskconnect", "continuous", "sparsemask")


# -- what is refused ------------------------------------------------------------------------------


def test_without_a_gpu_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        run(tmp_path / "run", training={"cuda_graph": True})
    assert str(caught.value) == "'cuda_graph' needs a CUDA device, but this run is on device 'cpu'; set it to false"
    assert not (tmp_path / "run").exists()


def test_what_can_be_captured() -> None:
    learner = MaskConnect(graph())
    check_capture(TrainOptions(), CPU, 4, learner)
    check_capture(CAPTURED, CUDA, 1, learner)
    with pytest.raises(OptionError, match="'cuda_graph' is for one process, but 2 train together"):
        check_capture(CAPTURED, CUDA, 2, learner)

    class Lazy(MaskConnect):
        learner_name = "lazy"
        capturable = False

    with pytest.raises(OptionError, match="learner 'lazy' does not say that its step can be captured"):
        check_capture(CAPTURED, CUDA, 1, Lazy(graph()))
    check_capture(CAPTURED, CUDA, 1, None)


@pytest.mark.parametrize("learner", [MaskConnect, Continuous, SparseMask, Fixed])
def test_learners_of_this_library_can(learner: type[EdgeLearner]) -> None:
    assert learner.capturable


# -- a step whose host part is made beforehand ----------------------------------------------------


def batch(number: int) -> tuple[Tensor, Tensor]:
    drawn = generator("batch", number)
    return torch.randn(4, 3, 8, 6, generator=drawn), torch.randint(4, (4,), generator=drawn)


def make_step(learner: str, *, tensor_rates: bool = False, device: torch.device = CPU, **options: Any) -> TrainingStep:
    """A step of a network that is the same every time."""
    torch.manual_seed(3)
    made = make_learner(learner, graph())
    net = Network(graph(), made).to(device).train()
    found = optimizers(net, 0.05, **options)
    step = TrainingStep(net, F.cross_entropy, found, made)
    if tensor_rates:
        make_capturable(found, device)
    return step


def take(step: TrainingStep, first: int, count: int = 4) -> list[float]:
    device = next(step.net.parameters()).device
    losses = []
    for number in range(first, first + count):
        images, targets = batch(number)
        losses.append(float(step(images.to(device), targets.to(device), factor=1 / (number + 1), seed=number)))
    return losses


def assert_same(first: TrainingStep, second: TrainingStep, tolerance: float = 0.0) -> None:
    state = second.net.state_dict()
    for name, value in first.net.state_dict().items():
        torch.testing.assert_close(
            value, state[name], rtol=tolerance, atol=tolerance, msg=lambda t, n=name: f"{n}: {t}"
        )


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_draw_made_beforehand_is_the_draw(learner: str) -> None:
    """TrainingStep draws before the forward pass; a loop of one's own leaves it to the forward pass."""
    step, own = make_step(learner), make_step(learner)
    assert own.learner is not None
    losses = take(step, 0)
    for number in range(4):
        own.rates.set(1 / (number + 1))
        torch.manual_seed(number)
        images, targets = batch(number)
        assert float(own.compute(images, targets)) == losses[number]
    assert_same(step, own)


@pytest.mark.parametrize("learner", LEARNERS)
def test_rates_on_the_device_are_rates(learner: str) -> None:
    """What a graph reads; SGD takes them in single precision."""
    floats, tensors = make_step(learner), make_step(learner, tensor_rates=True)
    assert take(floats, 0) == pytest.approx(take(tensors, 0), rel=1e-5)
    assert_same(floats, tensors, 1e-5)
    assert tensors.rates.now == floats.rates.now == 0.05 / 4
    assert all(isinstance(group["lr"], Tensor) for each in tensors.optimizers for group in each.param_groups)


def test_checkpoints_do_not_tell_where_the_rates_were() -> None:
    floats, tensors = make_step("maskconnect"), make_step("maskconnect", tensor_rates=True)
    take(floats, 0)
    take(tensors, 0)
    for one, other in zip(floats.optimizers, tensors.optimizers, strict=True):
        first, second = saved_state(one), saved_state(other)
        assert [group.keys() for group in first["param_groups"]] == [group.keys() for group in second["param_groups"]]
        for group in second["param_groups"]:
            assert isinstance(group["lr"], float)
    target = make_step("maskconnect", tensor_rates=True)
    for optimizer, other in zip(target.optimizers, floats.optimizers, strict=True):
        before = [group["lr"] for group in optimizer.param_groups]
        load_saved_state(optimizer, saved_state(other))
        assert [float(group["lr"]) for group in optimizer.param_groups] == [float(rate) for rate in before]
        assert all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    state = target.optimizers[0].state_dict()["state"]
    assert torch.equal(state[0]["momentum_buffer"], floats.optimizers[0].state_dict()["state"][0]["momentum_buffer"])


# -- warming up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("before", [0, 3], ids=["at the start", "in training"])
@pytest.mark.parametrize(
    "options",
    [{"name": "sgd"}, {"name": "sgd", "nesterov": True}, {"name": "adamw"}, {"name": "adamw", "amsgrad": True}],
)
def test_warming_up_leaves_no_trace(options: dict[str, Any], before: int, learner: str) -> None:
    step, undisturbed = make_step(learner, **options), make_step(learner, **options)
    for each in (step, undisturbed):
        take(each, 0, before)
        assert each.learner is not None
        each.learner.draw()
    where = [parameter.data_ptr() for parameter in step.net.parameters()]
    with capture._state_kept(step.net, step.optimizers):
        changed = step.net.state_dict()["nodes.stem.conv.weight"].clone()
        for _ in range(3):
            step.compute(*batch(99))
        assert not torch.equal(step.net.state_dict()["nodes.stem.conv.weight"], changed)
    assert [parameter.data_ptr() for parameter in step.net.parameters()] == where
    assert_same(step, undisturbed)
    assert take(step, before) == take(undisturbed, before)
    assert_same(step, undisturbed)


# -- capturing, with a graph that records nothing and runs the step again -------------------------


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class Graph:
    """Runs its step at each replay. A real one holds what the device did, and its capture does nothing there."""

    body: Callable[[], object]

    def replay(self) -> None:
        self.body()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[CapturedStep] = []
    made = CapturedStep.__init__

    def init(self: CapturedStep, *args: Any) -> None:
        made(self, *args)
        owners.append(self)

    @contextmanager
    def record(recorded: Graph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        owner = owners[-1]
        with capture._state_kept(owner._net, owner._optimizers):
            yield
        recorded.body = lambda: owner._loss.copy_(owner._compute(owner._images, owner._targets))

    monkeypatch.setattr(CapturedStep, "__init__", init)
    for name, value in {
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
        "current_stream": Stream,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": record,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(fitting, "check_capture", lambda *_: None)


def numbers(result: FitResult, epochs: int) -> list[dict[str, float]]:
    """What the first epochs gave."""
    records = untimed(result.history)[:epochs]
    return [{name: value for name, value in record.items() if name != "phase"} for record in records]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_captured_run_equals_another(learner: str, tmp_path: Path) -> None:
    """Draws, rates, phases, checkpoints; but for the rates' precision. On a CPU dropout draws on the host."""
    captured = run(tmp_path / "captured", learner, graph=plain(), training={"cuda_graph": True})
    other = run(tmp_path / "other", learner, graph=plain())
    assert captured.graph == other.graph or learner != "maskconnect"
    for one, two in zip(numbers(captured, 5), numbers(other, 5), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.usefixtures("fake")
def test_a_captured_run_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"training": {"cuda_graph": True}, "graph": plain()}
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        # Three batches to warm up and one to capture come before the first.
        run(tmp_path / "run", loss=Stopping(lambda: send(2), at=[11]), **options)
    resumed = run(tmp_path / "run", resume=True, **options)
    assert resumed.graph == whole.graph
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def loaders(drop_last: bool) -> Any:
    return DataLoader(Noisy(14), 4, drop_last=drop_last), DataLoader(Noisy(5), 4)


@pytest.mark.usefixtures("fake")
def test_batches_of_another_size_are_refused() -> None:
    options: dict[str, Any] = {"training": {"cuda_graph": True}, "graph": plain(), "epochs": 2}
    assert run(data=loaders(True), **options).metrics
    with pytest.raises(OptionError) as caught:
        run(data=loaders(False), **options)
    text = str(caught.value)
    assert "after (4, 3, 4, 4) of torch.float32 and (4,) of torch.int64 there is (2, 3, 4, 4)" in text
    assert "drop_last=True" in text


def noisy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets) * (1 + 0.1 * random.random())


@pytest.mark.usefixtures("fake")
def test_random_numbers_from_the_host_are_refused() -> None:
    with pytest.raises(OptionError, match="draws random numbers on the host"):
        run(graph=plain(), loss=noisy_loss, training={"cuda_graph": True})


@pytest.mark.usefixtures("fake")
def test_a_failed_capture_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def failing(*_: Any, **__: Any) -> Iterator[None]:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")
        except RuntimeError:
            raise RuntimeError("the end of a failed capture") from None
        yield

    monkeypatch.setattr(torch.cuda, "graph", failing)
    with pytest.raises(OptionError) as caught:
        run(training={"cuda_graph": True})
    text = str(caught.value)
    assert "cannot be captured as a CUDA graph (CUDA error: operation not permitted when stream is capturing)" in text
    monkeypatch.setattr(torch.cuda, "graph", _out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        run(training={"cuda_graph": True})


@contextmanager
def _out_of_memory(*_: Any, **__: Any) -> Iterator[None]:
    raise torch.OutOfMemoryError("full")
    yield


# -- on a GPU -------------------------------------------------------------------------------------


def on_gpu(out: Path | None = None, learner: str = "maskconnect", **options: Any) -> Any:
    options["training"] = {"channels_last": False} | options.get("training", {})
    return run(out, learner, **{"device": "cuda", "precision": "float32"} | options)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_captured_run_equals_an_uncaptured_one(learner: str, optimizer: str) -> None:
    options = {"learner": learner, "lr": 0.05 if optimizer == "sgd" else 0.005}
    training = {"optimizer": optimizer, "clip_grad_norm": 1.0}
    other = on_gpu(**options, training=training)
    captured = on_gpu(**options, training=training | {"cuda_graph": True})
    for one, two in zip(numbers(captured, 3), numbers(other, 3), strict=True):
        assert one == pytest.approx(two, rel=1e-2, abs=1e-3)
    assert captured.graph.nodes.keys() == other.graph.nodes.keys()


@pytest.mark.gpu
def test_masks_change_from_replay_to_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph reads the noise that is drawn outside it; the same masks as without a graph."""
    drawn: dict[bool, list[tuple[bool, ...]]] = {False: [], True: []}
    for captured, masks in drawn.items():
        step = make_step("maskconnect", tensor_rates=True, device=CUDA)
        learner = step.learner
        assert isinstance(learner, MaskConnect)
        if captured:
            step._run = CapturedStep(step.compute, step.net, step.optimizers, learner)
        for number in range(12):
            learner.draw()
            masks.append(tuple(learner.chosen().tolist()))
            take(step, number, 1)
    assert drawn[True] == drawn[False]
    assert len(set(drawn[True])) > 3


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # inductor's remarks about the device
@pytest.mark.parametrize("training", [{"compile": True}, {"channels_last": True}, {}], ids=str)
def test_captured_in_other_ways_too(training: dict[str, Any]) -> None:
    result = on_gpu(training=training | {"cuda_graph": True}, precision="bfloat16", epochs=2)
    assert result.metrics["loss"] < 3


@pytest.mark.gpu
def test_a_captured_run_goes_on_on_a_gpu(tmp_path: Path) -> None:
    training = {"cuda_graph": True}
    whole = on_gpu(tmp_path / "whole", training=training)
    with pytest.raises(KeyboardInterrupt):
        on_gpu(tmp_path / "run", training=training, loss=Stopping(lambda: send(2), val=[3]))
    resumed = on_gpu(tmp_path / "run", training=training, resume=True)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def waiting_loss(logits: Tensor, targets: Tensor) -> Tensor:
    value = F.cross_entropy(logits, targets)
    return value * (1.0 if float(value) > 0 else 2.0)


@pytest.mark.gpu
def test_a_loss_that_waits_is_refused() -> None:
    with pytest.raises(OptionError, match="the training step cannot be captured as a CUDA graph"):
        on_gpu(loss=waiting_loss, training={"cuda_graph": True})


@pytest.mark.gpu
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("data", ["tensors", "datasets"])
def test_a_step_waits_for_nothing(data: str, learner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = TrainingStep.__call__

    def strict(self: TrainingStep, *args: Any, **options: Any) -> Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return taken(self, *args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(TrainingStep, "__call__", strict)
    assert on_gpu(learner=learner, data=pair(data), epochs=2).metrics


@pytest.mark.gpu
def test_defaults_on_a_gpu() -> None:
    step = make_step("maskconnect", device=CUDA)
    assert all(group["fused"] for optimizer in step.optimizers for group in optimizer.param_groups)
    layouts: list[bool] = []

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)

    class Spy(torch.nn.Module):
        def __init__(self, dag: torch.nn.Module) -> None:
            super().__init__()
            self.dag = dag

        def forward(self, images: Tensor, weights: Any) -> Any:
            layouts.append(images.is_contiguous(memory_format=torch.channels_last))
            return self.dag(images, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", Spy)
        run(device="cuda", epochs=2, loss=loss, training={"compile": True})
    assert layouts[0]
