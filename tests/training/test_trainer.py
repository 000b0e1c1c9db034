"""The loop: divergence, Ctrl-C, progress, TensorBoard, layouts."""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import topolearn
from tests.data.toys import Noisy, noisy, toy
from tests.training.runs import Stopping, assert_same, graph, pair, run, send, untimed
from topolearn.compiler import Network, prune
from topolearn.data import Data
from topolearn.errors import DataError, TrainingError
from topolearn.learners import MaskConnect, SearchSchedule
from topolearn.samples.base import Batch
from topolearn.training import phases as phases_module
from topolearn.training import progress
from topolearn.training import trainer as trainer_module
from topolearn.training.interrupt import Interrupt
from topolearn.training.progress import Reporter


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


# -- divergence ---------------------------------------------------------------------------------


def diverging(kind: str, at: int = 9) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss whose value, gradient or validation value is lost at the 9th step, in the second epoch."""
    calls = {"train": 0, "val": 0}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = F.cross_entropy(outputs, targets)
        training = torch.is_grad_enabled()
        calls["train" if training else "val"] += 1
        if training and calls["train"] == at:
            if kind == "gradient":  # sqrt at 0: a finite value with an infinite slope
                return value + (outputs - outputs.detach()).sum().sqrt()
            if kind in ("nan", "inf"):
                return value * float(kind)
        return value * float("nan") if kind == "validation" and calls["val"] == 3 else value

    return loss


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("nan", "the loss became nan in phase 'search', epoch 2, step 4"),
        ("inf", "the loss became inf in phase 'search', epoch 2, step 4"),
        ("gradient", "a weight became infinite or nan in phase 'search', epoch 2, step 4"),
        ("validation", "the validation loss became nan in phase 'search', epoch 2, step 5"),
    ],
)
def test_a_loss_that_is_no_number(kind: str, text: str, tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        run(folder, loss=diverging(kind))
    assert text in str(caught.value)
    assert "lower 'lr', or set 'clip_grad_norm' or 'warmup_epochs'" in str(caught.value)
    assert str(caught.value).endswith(f"the last good checkpoint is in {folder / 'checkpoint'}")
    state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
    assert all(value.isfinite().all() for value in state["network"].values() if value.is_floating_point())
    assert not (folder / "weights.safetensors").exists()
    for line in (folder / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    # The checkpoint is good: without the accident the run goes on as if nothing had been.
    run(folder, resume=True)
    assert_same(whole, folder)


def test_divergence_without_a_folder_or_checkpoint(tmp_path: Path) -> None:
    for out in (None, tmp_path / "run"):
        with pytest.raises(TrainingError) as caught:
            run(out, loss=diverging("nan", at=2))
        assert str(caught.value).endswith("or set 'clip_grad_norm' or 'warmup_epochs'")


def test_a_rate_that_is_too_high() -> None:
    with pytest.raises(TrainingError, match=r"lower 'lr'"):
        run(lr=1e30)


# -- Ctrl-C -------------------------------------------------------------------------------------


def interrupted(folder: Path | None, **places: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, loss=Stopping(lambda: send(signal.SIGINT), **places), quiet=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_of_many_epochs_starts_and_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a learner is told of the search ahead takes no longer, and no more memory, for more steps."""
    ahead: list[SearchSchedule] = []
    monkeypatch.setattr(MaskConnect, "begin", lambda self, schedule: ahead.append(schedule))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", epochs=10**8, loss=Stopping(lambda: send(signal.SIGTERM), at=[1]))
    run()
    monkeypatch.setattr(phases_module, "_LOOKED_AT", 8)
    run()
    many, exact, coarse = ahead
    assert many.steps == 3 * 10**8
    mean = 0.5 + 0.5 * math.sin(0.6 * math.pi) / (0.6 * math.pi)  # of a cosine, up to 0.6 of its length
    assert many.total_lr == pytest.approx(0.05 * mean * many.steps, rel=1e-4)
    assert coarse == replace(exact, total_lr=coarse.total_lr)
    assert coarse.total_lr == pytest.approx(exact.total_lr, rel=0.1)


@pytest.mark.parametrize(
    ("places", "position"),
    [
        ({"at": [1]}, {"epoch": 0, "step": 1, "epochs": 0}),
        ({"val": [1]}, {"epoch": 1, "step": 0, "epochs": 1}),
        ({"val": [6]}, {"epoch": 3, "step": 0, "epochs": 3}),
    ],
    ids=["first step", "first evaluation", "last evaluation of the search"],
)
def test_interrupt(places: Any, position: Any, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    interrupted(folder, **places)
    assert f"interrupted; go on with --resume ({folder})" in capsys.readouterr().err
    state = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
    assert state["position"] == {"phase": 0, "settled": False} | position
    run(folder, resume=True)
    assert_same(whole, folder)


def test_interrupt_at_the_end_of_the_search(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(net: Network) -> Network:
        send(signal.SIGINT)
        return prune(net)

    with monkeypatch.context() as patch:
        patch.setattr("topolearn.training.trainer.prune", impatient)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["position"] == {"phase": 1, "epoch": 0, "step": 1, "epochs": 3, "settled": True}
    run(tmp_path / "run", resume=True)
    assert_same(whole, tmp_path / "run")


def test_a_network_is_judged_once(tmp_path: Path) -> None:
    """The last evaluation of a phase is also that of the end of the search, and of the run."""
    seen = Stopping(lambda: None)
    result = run(tmp_path / "run", loss=seen)
    epochs = [record for record in result.history if "epoch" in record]
    assert seen.calls["val"] == 2 * len(epochs)  # of two batches each
    searched = [record for record in epochs if record["phase"] == "search"]
    assert result.searched_metrics["accuracy"] == searched[-1]["val_accuracy"]
    assert result.metrics["accuracy"] == epochs[-1]["val_accuracy"]


def test_interrupt_before_the_first_step(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(self: Reporter) -> Reporter:
        send(signal.SIGINT)
        return self

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "__enter__", impatient)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    run(tmp_path / "run", resume=True)
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("places", [{"at": [25]}, {"val": [11]}, {"val": [13]}])
def test_a_run_that_was_all_but_done_ends(places: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "run", loss=Stopping(lambda: send(signal.SIGINT), **places)).metrics
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_interrupt_twice_in_one_step(tmp_path: Path) -> None:
    def twice() -> None:
        send(signal.SIGINT)
        send(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=Stopping(twice, at=[9]))
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["position"]["step"] == 2
    run(tmp_path / "run", resume=True)


def test_interrupt_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(None, at=[3])
    assert "interrupted; nothing was saved, because the run has no folder" in capsys.readouterr().err


def failing(interrupted: bool, error: Exception) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that fails at the 9th step, as a compiler does whose processes Ctrl-C has reached too."""

    def fail() -> None:
        if interrupted:
            send(signal.SIGINT)
        raise error

    return Stopping(fail, at=[9])


def test_what_fails_after_ctrl_c_is_an_interrupt(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as caught:
        run(folder, loss=failing(True, RuntimeError("g++ was killed")), quiet=False)
    assert caught.value.__suppress_context__, "a long traceback would come along"
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; go on with --resume ({folder})"
    run(folder, resume=True)
    assert_same(whole, folder)
    # Without Ctrl-C it is an error, and one of ours says more than that there was an interrupt.
    with pytest.raises(RuntimeError, match=r"g\+\+ was killed"):
        run(loss=failing(False, RuntimeError("g++ was killed")))
    with pytest.raises(TrainingError, match="no way on"):
        run(loss=failing(True, TrainingError("no way on")))


def test_termination_is_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=Stopping(lambda: send(signal.SIGTERM), at=[3]))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run(tmp_path / "run", resume=True).metrics


def test_interrupts_that_others_look_after() -> None:
    """A thread cannot set handlers, and a background job ignores Ctrl-C."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(epochs=2)))
    thread.start()
    thread.join()
    assert results[0].metrics
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            send(signal.SIGINT)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGINT, before)


# -- progress -----------------------------------------------------------------------------------


def test_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run [b]", quiet=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("search 1/3", "search 2/3", "search 3/3"),
        *(lines[3], "fine_tune 1/2", "fine_tune 2/2"),
    ]
    assert lines[3].startswith("kept ")
    assert "parameters" in lines[3]
    for text in ("train_loss ", "val_loss ", "val_accuracy ", "images/s, ", " left"):
        assert all(text in line for line in lines if line is not lines[3]), text
    run(tmp_path / "quiet", quiet=True)
    assert capsys.readouterr().err == ""


def test_text_is_counted_in_contexts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(10, items="contexts") as reporter:
        reporter.step("search", 4)
        reporter.epoch({"phase": "search", "epoch": 1, "epochs": 2, "images_per_second": 3.0})
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"search 1/2  \d+ contexts/s, \d+:\d\d left", line)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Reporter(10, items="contexts") as reporter:
        assert reporter.live is not None
        reporter.step("search", 4)
        assert reporter.live.tasks[0].fields["rate"].endswith(" contexts/s")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Reporter(10, done=2) as reporter:
        assert reporter.live is not None
        reporter.step("search", 4)
        reporter.epoch({"phase": "search", "epoch": 1, "epochs": 2, "train_loss": 0.5})
        reporter.say("see [b] and [/]")
        assert reporter.left() >= 0
        assert reporter.live.tasks[0].completed == 3
    assert "see [b] and [/]" in capsys.readouterr().err


def test_the_time_left_counts_steps_and_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def steps(count: int) -> None:
        for _ in range(count):
            now[0] += 2
            reporter.step("search", 4)

    def evaluation() -> None:
        with reporter.evaluation():
            now[0] += 30

    with Reporter(10, done=2, evaluations=2, quiet=True) as reporter:
        steps(4)
        assert reporter.left() == 4 * 2  # nothing is known of evaluations yet
        evaluation()
        assert reporter.left() == 4 * 2 + 30
        steps(4)
        evaluation()
        assert reporter.left() == 0


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("learner", ["maskconnect", "fixed"])
def test_as_many_evaluations_are_announced_as_there_are(
    learner: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    class Counting(Reporter):
        def __exit__(self, *ended: Any) -> None:
            told.append((self._evaluations, self._evaluated))
            super().__exit__(*ended)

    monkeypatch.setattr(trainer_module, "Reporter", Counting)
    run(None, learner, training={"evaluate_every": every})
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "run",
            learner,
            loss=Stopping(lambda: send(signal.SIGINT), [12]),
            training={"evaluate_every": every},
        )
    run(tmp_path / "run", learner, loss=Stopping(lambda: None), training={"evaluate_every": every}, resume=True)
    (announced, made), (_, before), (left, after) = told
    assert announced == made == before + left
    assert left == after


# -- the rest -----------------------------------------------------------------------------------


class Writer:
    """What stands in for TensorBoard's."""

    made: list[Writer]

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = folder, [], False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer.made = []
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    result = run(tmp_path / "run")
    run()  # writes nothing
    (writer,) = Writer.made
    assert (writer.folder, writer.closed) == (str(tmp_path / "run" / "tensorboard"), True)
    assert [step for name, _, step in writer.scalars if name.endswith("/val_accuracy")] == [0, 1, 2, 3, 4]
    losses = [value for name, value, _ in writer.scalars if name == "search/train_loss"]
    assert losses == [record["train_loss"] for record in result.history[:3]]


def test_tensorboard_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_real_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path / "run", epochs=2)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_channels_last_and_back(tmp_path: Path) -> None:
    options: Any = {"training": {"channels_last": True}, "learner": "continuous"}
    run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=Stopping(lambda: send(signal.SIGINT), at=[8]), **options)
    run(tmp_path / "run", resume=True, **options)
    assert_same(tmp_path / "whole", tmp_path / "run")
    plain = run(learner="continuous")
    loaded = topolearn.load_model(tmp_path / "whole").state_dict()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-4)


def test_compiled_runs_end_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is the interpreter, and what comes out can be copied and exported."""
    compiled: list[Any] = []

    class Compiled(torch.nn.Module):
        def __init__(self, dag: torch.nn.Module) -> None:
            super().__init__()
            self.dag = dag

        def forward(self, *args: Any) -> Any:
            return self.dag(*args)

    def fake(dag: torch.nn.Module) -> torch.nn.Module:
        compiled.append(dag)
        return Compiled(dag)

    monkeypatch.setattr(torch, "compile", fake)
    result = run(learner="maskconnect", training={"compile": True})
    assert len(compiled) == 2, "one for the search, one for the pruned network"
    assert not any(isinstance(dag, Compiled) for dag in compiled)
    assert not isinstance(result.model.dag, Compiled)
    assert untimed(result.history) == untimed(run(learner="maskconnect").history)


class Short(Dataset[Any]):
    """Says more, or fewer, than it gives."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return Noisy(8)[index]


class Batches:
    """A batch sampler whose length is wrong."""

    def __init__(self, said: int, given: int) -> None:
        self.said, self.given = said, given

    def __len__(self) -> int:
        return self.said

    def __iter__(self) -> Any:
        return iter([[0, 1, 2, 3]] * self.given)


def miscounting(said: int, given: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    return DataLoader(Short(), batch_sampler=Batches(said, given)), DataLoader(Short(), 4)  # type: ignore[arg-type]


def test_a_loader_that_gives_more_than_it_promises() -> None:
    assert run(data=miscounting(2, 3), epochs=2, training={"schedule": "poly"}).metrics["loss"] > 0


def test_a_loader_that_gives_less_than_it_promises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training loader ended after 2 of the 3 batches"):
        run(tmp_path / "run", data=miscounting(3, 2), epochs=2)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


class Fewer(Data):
    """The toy, which gives fewer batches than it promises."""

    mid_epoch_resume = True

    def __init__(self, train: int, val: int) -> None:
        self.toy, self.train, self.val = toy(), train, val
        self.info, self.train_size, self.val_size = self.toy.info, self.toy.train_size, self.toy.val_size

    def steps(self, batch_size: int) -> int:
        return self.toy.steps(batch_size)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        return itertools.islice(self.toy.train_batches(batch_size, seed=seed, epoch=epoch, first=first), self.train)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        return itertools.islice(self.toy.val_batches(batch_size), self.val)

    def to(self, device: Any) -> Data:
        return self

    def first_images(self, count: int) -> Data:
        return self


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (0, 2, "the training data 'toy' ended after 0 of the 5 batches of an epoch"),
        (3, 2, "the training data 'toy' ended after 3 of the 5 batches"),
        (5, 0, "the validation set has no samples, so the network cannot be judged"),
    ],
)
def test_data_of_one_s_own_that_give_less_than_they_promise(train: int, val: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(data=Fewer(train, val))


def test_data_as_such_and_batches_larger_than_the_set() -> None:
    for data, classes in ((noisy(), 3), (toy(count=3), 4)):
        assert run(data=data, epochs=2, batch_size=100, graph=graph(classes=classes)).metrics
    assert run(data=pair("loaders"), epochs=2, batch_size=100).metrics, "a loader has a batch size of its own"


def test_the_line_of_an_epoch_has_losses_metrics_and_how_far_the_search_is(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"phase": "search", "epoch": 1, "epochs": 2, "train_loss": 0.5, "val_accuracy": 0.25, "mask_min": 0.1}
    with Reporter(10) as reporter:
        reporter.epoch(record, "edges decided 34%")
        reporter.epoch(record)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("search 1/2  train_loss 0.5  val_accuracy 0.25  edges decided 34%  0 images/s, ")
    assert lines[1].startswith("search 1/2  train_loss 0.5  val_accuracy 0.25  0 images/s, ")


@pytest.mark.parametrize(
    ("learner", "words"),
    [("maskconnect", "edges decided "), ("sparsemask", "edges decided "), ("continuous", "edges kept ")],
)
def test_learners_say_how_far_they_are(learner: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(None, learner, quiet=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("search")]
    assert lines
    assert all(words in line for line in lines)
