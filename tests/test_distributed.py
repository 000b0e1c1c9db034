"""Training in several processes: the same masks and steps everywhere, one that writes."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import topolearn
from tests.data.toys import Batches, toy
from tests.learner_settings import SETTINGS
from tests.ranks import FAILED, STOPPED, Ranks
from tests.training.runs import ROOT, assert_same, pair
from topolearn.data import Augment, Data
from topolearn.data.load import load_data
from topolearn.distributed import World, is_main, launched
from topolearn.errors import DataError, OptionError

ARTEFACTS = [
    "config.yaml",
    "graph.yaml",
    "history.jsonl",
    "movement.f32",
    "search.safetensors",
    "search.yaml",
    "weights.safetensors",
]
UNEVEN = 5
"""A batch of which one process takes 2 images and the other 3."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as server:
        yield server


@pytest.fixture
def own_group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def same_tensors(first: Any, second: Any, **tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if tolerance:
            torch.testing.assert_close(value, second[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert torch.equal(value, second[name]), name


# -- masks, steps, files --------------------------------------------------------------------------


def test_all_processes_take_the_same_steps(ranks: Ranks, tmp_path: Path) -> None:
    """With batch statistics and dropout, which each process has its own of."""
    statuses, (first, second) = ranks.run(tmp_path, network="tiny", apart=True)
    assert statuses == [0, 0], (tmp_path / "rank-1.log").read_text()
    assert len(first["masks"]) == 15
    for kind in ("masks", "real"):
        assert all(torch.equal(a, b) for a, b in zip(first[kind], second[kind], strict=True)), kind
    assert len({tuple(mask.tolist()) for mask in first["masks"]}) > 3, "masks that never change would be equal anyway"
    assert any(not torch.equal(value, torch.full_like(value, 0.5)) for value in first["real"])
    assert all(a != b for a, b in zip(first["noise"], second["noise"], strict=True)), "no dropout in step"
    same_tensors(first["weights"], second["weights"])
    assert first["graph"] == second["graph"]
    assert first["history"] == second["history"]
    assert not first["group"], "the group that fit made is gone"


def test_one_process_writes(ranks: Ranks, tmp_path: Path) -> None:
    _, (first, second) = ranks.run(tmp_path, network="tiny", apart=True)
    assert sorted(path.name for path in (tmp_path / "run0").iterdir()) == ARTEFACTS
    assert not (tmp_path / "run1").exists()
    records = (tmp_path / "run0" / "history.jsonl").read_text().splitlines()
    assert [json.loads(record)["phase"] for record in records] == ["search"] * 3 + ["fine_tune"] * 2 + ["result"]
    assert (first["called"], second["called"]) == (["search"] * 3 + ["fine_tune"] * 2, [])
    assert "search 3/3" in (tmp_path / "rank-0.log").read_text()
    assert (tmp_path / "rank-1.log").read_text() == ""
    # What was written is what both have.
    same_tensors(topolearn.load_model(tmp_path / "run0").state_dict(), second["weights"])


@pytest.mark.parametrize("learner", ["maskconnect", "sparsemask", "continuous"])
def test_two_processes_do_what_one_does(learner: str, ranks: Ranks, tmp_path: Path) -> None:
    """Equal to rounding, with parts of different sizes, penalties and clipping."""
    options = {"learner": learner, "batch_size": UNEVEN, "training": {"clip_grad_norm": 1.0}}
    _, (alone,) = ranks.run(tmp_path / "one", ranks=1, **options)
    statuses, (first, second) = ranks.run(tmp_path / "two", **options)
    assert statuses == [0, 0], (tmp_path / "two" / "rank-1.log").read_text()
    same_tensors(first["weights"], second["weights"])
    same_tensors(alone["weights"], first["weights"], rtol=1e-3, atol=1e-5)
    assert alone["graph"] == first["graph"] or learner != "maskconnect"
    assert all(torch.equal(a, b) for a, b in zip(alone["masks"], first["masks"], strict=True))
    for one, two in zip(alone["history"], first["history"], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() & {"train_loss", "val_loss", "val_accuracy", "lr"}:
            assert one[name] == pytest.approx(two[name], rel=1e-3), name


def test_two_processes_learn_from_several_inputs_what_one_does(ranks: Ranks, tmp_path: Path) -> None:
    options = {"network": "several", "data": "several", "learner": "continuous", "batch_size": UNEVEN}
    _, (alone,) = ranks.run(tmp_path / "one", ranks=1, **options)
    statuses, (first, second) = ranks.run(tmp_path / "two", **options)
    assert statuses == [0, 0], (tmp_path / "two" / "rank-1.log").read_text()
    same_tensors(first["weights"], second["weights"])
    same_tensors(alone["weights"], first["weights"], rtol=1e-3, atol=1e-5)
    for one, two in zip(alone["history"], first["history"], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() & {"train_loss", "val_loss"}:
            assert one[name] == pytest.approx(two[name], rel=1e-3), name


def test_two_processes_learn_from_text_what_one_does(ranks: Ranks, tmp_path: Path) -> None:
    """The last validation batch has one context, so one process has no part in it. AdamW would enlarge rounding."""
    options = {
        "network": "text",
        "learner": "continuous",
        "batch_size": UNEVEN,
        "training": {"steps_per_epoch": 4, "optimizer": "sgd"},
    }
    _, (alone,) = ranks.run(tmp_path / "one", ranks=1, **options)
    statuses, (first, second) = ranks.run(tmp_path / "two", **options)
    assert statuses == [0, 0], (tmp_path / "two" / "rank-1.log").read_text()
    same_tensors(first["weights"], second["weights"])
    same_tensors(alone["weights"], first["weights"], rtol=1e-3, atol=1e-5)
    for one, two in zip(alone["history"], first["history"], strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() & {"train_loss", "val_loss", "val_bits_per_byte", "val_accuracy", "lr"}:
            assert one[name] == pytest.approx(two[name], rel=1e-3), name


class Idle(nn.Module):
    """A layer that is never called, one that is frozen, and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.used, self.never, self.frozen = nn.BatchNorm1d(3), *(nn.Linear(3, 3) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.used(self.norm(x)))  # type: ignore[no-any-return]


def test_a_parameter_without_a_gradient_is_not_waited_for(own_group: None) -> None:
    net, inputs = Idle(), torch.randn(4, 3)
    state, numbers = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    wrapped = World(0, 2).parallel(net, inputs)
    same_tensors(net.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), numbers)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.{p}" for layer in ("norm", "used", "never") for p in ("weight", "bias")}
    for _ in range(3):
        wrapped(torch.randn(4, 3)).sum().backward()
        assert net.used.weight.grad is not None
        assert net.never.weight.grad is None


def test_a_network_without_anything_to_train_stays_as_it_is(own_group: None) -> None:
    net = Idle().requires_grad_(False)
    assert World(0, 2).parallel(net, torch.randn(4, 3)) is net
    assert World().parallel(Idle(), torch.randn(4, 3)).__class__ is Idle


def test_datasets_are_divided(ranks: Ranks, tmp_path: Path) -> None:
    options = {"data": "datasets", "network": "tiny", "batch_size": UNEVEN}
    statuses, (first, second) = ranks.run(tmp_path, **options)
    assert statuses == [0, 0], (tmp_path / "rank-0.log").read_text()
    same_tensors(first["weights"], second["weights"])


def test_in_a_group_of_the_programs_own(ranks: Ranks, tmp_path: Path) -> None:
    _, (first, second) = ranks.run(tmp_path / "own", own_group=True)
    assert first["group"], "it is the program's to destroy"
    _, (launched_first, _) = ranks.run(tmp_path / "launched")
    same_tensors(first["weights"], launched_first["weights"])
    same_tensors(first["weights"], second["weights"])


# -- a loop of the program's own -------------------------------------------------------------------


def test_every_learner_in_a_loop_with_ddp(ranks: Ranks, tmp_path: Path) -> None:
    """No parameter lacks a gradient, before and after pruning; masks agree though every process has its own seed."""
    statuses, (first, second) = ranks.run(tmp_path, own_loop=True)
    assert statuses == [0, 0], (tmp_path / "rank-1.log").read_text()
    assert first.keys() == SETTINGS.keys()
    for name, setting in SETTINGS.items():
        for kind in ("searched", "pruned"):
            same_tensors(first[name][kind], second[name][kind])
        weights = [record[name]["steps"] for record in (first, second)]
        assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True)), name
        if setting.draws:
            assert any(not torch.equal(each, weights[0][0]) for each in weights[0]), "nothing is drawn"


# -- stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize("at", [7, 10, 18], ids=["in an epoch", "at its end", "after the search"])
def test_all_stop_when_one_is_asked_to(at: int, ranks: Ranks, tmp_path: Path) -> None:
    """Ctrl-C may reach the processes at different steps; the run goes on as if nothing had been."""
    ranks.run(tmp_path / "whole", network="tiny")
    stop = {"rank": 1, "action": "SIGTERM", "at": [at]}
    statuses, _ = ranks.run(tmp_path / "stopped", network="tiny", stop=stop)
    assert statuses == [STOPPED, STOPPED]
    state = torch.load(tmp_path / "stopped" / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["position"]["epochs"] * 5 + state["position"]["step"] == at
    statuses, (first, second) = ranks.run(tmp_path / "stopped", network="tiny", resume=True)
    assert statuses == [0, 0], (tmp_path / "stopped" / "rank-1.log").read_text()
    assert_same(tmp_path / "whole" / "run", tmp_path / "stopped" / "run")
    same_tensors(first["weights"], second["weights"])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on(before: int, after: int, ranks: Ranks, tmp_path: Path) -> None:
    _, (whole, *_) = ranks.run(tmp_path / "whole", ranks=1)
    stop = {"rank": 0, "action": "SIGTERM", "at": [7]}
    ranks.run(tmp_path / "run", ranks=before, stop=stop)
    statuses, (first, *_) = ranks.run(tmp_path / "run", ranks=after, resume=True)
    assert statuses == [0] * after, (tmp_path / "run" / "rank-0.log").read_text()
    same_tensors(whole["weights"], first["weights"], rtol=1e-3, atol=1e-5)


def test_a_finished_run_is_returned_to_all(ranks: Ranks, tmp_path: Path) -> None:
    _, before = ranks.run(tmp_path)
    statuses, after = ranks.run(tmp_path, resume=True)
    assert statuses == [0, 0]
    for one, two in zip(before, after, strict=True):
        same_tensors(one["weights"], two["weights"])


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_process_ends_all(failing: int, ranks: Ranks, tmp_path: Path) -> None:
    statuses, records = ranks.run(tmp_path, stop={"rank": failing, "action": "fail", "at": [3]})
    assert statuses[failing] == 1
    assert "out of paper" in (tmp_path / f"rank-{failing}.log").read_text()
    other = 1 - failing
    assert statuses[other] == FAILED, "it must not wait for ever"
    assert records[other]["error"].startswith("TrainingError: another process of this run has stopped")


@pytest.mark.parametrize(("killed", "at"), [(0, 3), (1, 3), (1, 10), (0, 17)])
def test_a_killed_process_ends_all_and_nothing_is_lost(killed: int, at: int, ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(tmp_path / "whole", network="tiny")
    stop = {"rank": killed, "action": "SIGKILL", "at": [at]}
    statuses, records = ranks.run(tmp_path / "killed", network="tiny", stop=stop)
    assert statuses[killed] == -signal.SIGKILL
    assert statuses[1 - killed] == FAILED, "it must not wait for ever"
    assert records[1 - killed]["error"].startswith("TrainingError: another process of this run has stopped")
    statuses, _ = ranks.run(tmp_path / "killed", network="tiny", resume=True)
    assert statuses == [0, 0], (tmp_path / "killed" / "rank-0.log").read_text()
    assert_same(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({"batch_size": 1}, "OptionError: 2 processes cannot share a batch of 1 images; start fewer"),
        ({"data": "loaders"}, "DataError: 'Noisy' cannot be divided over 2 processes; give Datasets instead of"),
        ({"learner": "maskconect"}, "OptionError: unknown learner 'maskconect'; did you mean 'maskconnect'?"),
    ],
)
def test_bad_input(job: Any, text: str, ranks: Ranks, tmp_path: Path) -> None:
    statuses, records = ranks.run(tmp_path, network="tiny", **job)
    assert statuses == [FAILED, FAILED]
    for record in records:
        assert record["error"].startswith(text)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_by_all(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(tmp_path)
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    statuses, records = ranks.run(tmp_path)
    assert statuses == [FAILED, FAILED]
    assert all("already holds a run; give --resume" in record["error"] for record in records)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before


# -- parts of batches -----------------------------------------------------------------------------


def batches(data: Data, part: str) -> Batches:
    return list(data.train_batches(5, seed=3, epoch=2, first=1) if part == "train" else data.val_batches(5))


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("kind", ["tensors", "datasets", "segmentation"])
def test_parts_make_up_the_batches(kind: str, part: str) -> None:
    if kind == "segmentation":
        data: Data = toy(Augment(pad=1, flip=True, fill="reflect"), task="segmentation")
    else:
        data = load_data(pair(kind))
    whole = batches(data, part)
    for count in (2, 3):
        parts = [iter(batches(data.part(rank, count), part)) for rank in range(count)]
        for images, targets in whole:
            shares = [len(images) * (rank + 1) // count - len(images) * rank // count for rank in range(count)]
            pieces = [next(each) for each, share in zip(parts, shares, strict=True) if share]
            assert [len(piece[0]) for piece in pieces] == [share for share in shares if share]
            assert torch.equal(torch.cat([piece[0] for piece in pieces]), images)
            assert torch.equal(torch.cat([piece[1] for piece in pieces]), targets)
        assert all(next(each, None) is None for each in parts)


def test_data_that_cannot_be_divided() -> None:
    data = load_data(pair("loaders"))
    assert World().divide(data, 4) is data, "alone there is nothing to divide"
    with pytest.raises(DataError, match="cannot be divided over 4 processes"):
        data.part(0, 4)
    with pytest.raises(OptionError, match="3 processes cannot share a batch of 2 images"):
        World(0, 3).divide(toy(), 2)


def test_who_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == (0, 1)
    assert is_main()
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == (1, 4)
    assert not is_main()
    monkeypatch.delenv("MASTER_PORT")
    assert launched() == (0, 1), "half an environment is none"


# -- torchrun -------------------------------------------------------------------------------------

DIGITS = """
topolearn: 1
name: small
data: digits
inputs: {image: [1, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 4, stride: 2}
  a[1..3]: {op: conv_bn_relu, out_channels: 4, aggregate: mean}
  head: {op: classifier, classes: 10}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "a[1..3]"], learnable: true}
  - {from: a3, to: head}
outputs: [head]
"""


@pytest.mark.parametrize("more", [[], pytest.param(["--set", "compile=true"], marks=pytest.mark.slow)])
def test_torchrun(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(DIGITS)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "topolearn",
    ]
    command += ["fit", str(tmp_path / "small.yaml"), "--epochs", "2", "--batch-size", "64", "--no-export"]
    command += ["--set", "train_images=256", "--device", "cpu", "--out", str(tmp_path / "run"), *more]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("small: maskconnect") == 1, "one process prints the table"
    assert ran.stderr.count("search 1/1") == 1
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert not (tmp_path / "run" / "checkpoint").exists()
