"""``fit``: what goes in, what comes out, and what it says of input that cannot be used."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.classification
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import topolearn
from tests.data.toys import Items, Noisy, global_state, toy
from tests.training.runs import SEGMENTATION, Stopping, graph, pair, quick_fit, run, untimed
from topolearn.compiler import Network
from topolearn.data import Augment
from topolearn.errors import CheckpointError, DataError, OptionError, TopolearnError
from topolearn.format import loads
from topolearn.learners import MaskConnect
from topolearn.recipes import TrainOptions
from topolearn.runs import FitResult

LEARNERS = ("maskconnect", "continuous", "sparsemask", "fixed")


def weights(result: FitResult) -> dict[str, Tensor]:
    return result.model.state_dict()


def same(first: FitResult, second: FitResult) -> bool:
    ours, theirs = weights(first), weights(second)
    return (
        first.graph == second.graph
        and list(ours) == list(theirs)
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
        and untimed(first.history) == untimed(second.history)
    )


def fails(error: type[TopolearnError], *texts: str, **options: Any) -> str:
    with pytest.raises(error) as caught:
        run(**options)
    message = str(caught.value)
    assert all(text in message for text in texts), message
    assert "\n" not in message
    return message


# -- what comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS)
def test_result(learner: str) -> None:
    result = run(learner=learner)
    assert result.searched == graph()
    assert result.graph == result.model.graph
    assert not any(edge.learnable for edge in result.graph.edges)
    assert not result.model.training
    assert result.learner is not None
    assert result.learner.learner_name == learner
    assert set(result.metrics) == {"loss", "accuracy"}
    assert bool(result.searched_metrics) == (learner != "fixed")
    assert result.graph.cost.params <= result.one_level_params <= result.searched.cost.params
    assert len(result.history) == 6
    last = result.history[-2]
    assert result.metrics == {name: last[f"val_{name}"] for name in result.metrics}
    assert last["epoch"] == last["epochs"]
    assert result.model.about == {"mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "classes": list("abcd")}
    searching = [record for record in result.history if record["phase"] == "search"]
    assert all(len(record) > 8 for record in searching), "a learner has numbers of its own"


def test_evaluation_may_be_rarer_than_epochs() -> None:
    rare, often = (
        run(epochs=6, training={"evaluate_every": every, "phases": {"search": 4, "fine_tune": 2}}) for every in (3, 1)
    )
    assert [record["phase"] for record in rare.history if "val_loss" in record] == ["search", "search", "fine_tune"]
    assert ["val_loss" in record for record in rare.history] == [False, False, True, True, False, True, False]
    assert rare.metrics == often.metrics


def test_metrics_are_those_of_the_model() -> None:
    result = run(learner="continuous")
    images, targets = (torch.cat(parts) for parts in zip(*toy().val_batches(4), strict=True))
    with torch.no_grad():
        outputs = result.model(images)
    assert result.metrics["accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))
    assert result.metrics["loss"] == pytest.approx(float(F.cross_entropy(outputs, targets)), abs=1e-5)


@pytest.mark.parametrize("learner", LEARNERS)
def test_equal_seeds_give_equal_results(learner: str) -> None:
    before = global_state()
    first = run(learner=learner, seed=3)
    assert global_state() == before, "the caller's generators were touched"
    torch.rand(3), random.random(), np.random.rand()
    assert same(first, run(learner=learner, seed=3))
    other = run(learner=learner, seed=4)
    assert not torch.equal(next(iter(weights(first).values())), next(iter(weights(other).values())))


def test_the_seed_reaches_a_learner_that_draws() -> None:
    assert run(learner="maskconnect", seed=9).config["learner_options"]["seed"] == 9
    assert run(learner="sparsemask", seed=9, threshold=0.1).config["learner_options"]["seed"] == 9


def test_a_learner_that_is_there_already() -> None:
    learner = MaskConnect(graph(), fan_in=1, seed=3)
    result = run(learner=learner, training={"phases": {"search": 3, "fine_tune": 2}})
    assert result.learner is learner
    assert same(result, run(learner="maskconnect", fan_in=1, seed=0, training={"phases": {}})) is False
    fails(OptionError, "the learner is already made; give its options where you make it", learner=learner, fan_in=2)
    fails(OptionError, "the learner was made for graph 'tiny'", learner=learner, graph=graph(name="other"))


# -- what goes in -------------------------------------------------------------------------------


def test_a_network_gives_its_weights() -> None:
    torch.manual_seed(5)
    start = Network(graph()).double()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    result = run(learner="fixed", epochs=1, lr=1e-12, graph=start, rule="full", training={"weight_decay": 0.0})
    found = weights(result)
    assert all(value.dtype != torch.float64 for value in found.values())
    for name, parameter in start.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach().float(), atol=1e-6, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items()), "the start was trained"


@pytest.mark.parametrize("where", ["folder", "file", "search"])
def test_weights_from_a_run(tmp_path: Path, where: str) -> None:
    run(tmp_path / "first", "maskconnect", epochs=2)
    first = tmp_path / "first"
    options: dict[str, Any] = {"learner": "fixed", "epochs": 1, "lr": 1e-12, "training": {"weight_decay": 0.0}}
    if where == "search":  # the searched network, whose gates are left behind
        options |= {"weights": first / "search.safetensors", "rule": "full"}
    else:
        options |= {"weights": first if where == "folder" else str(first / "weights.safetensors"), "rule": "full"}
        options["graph"] = first / "graph.yaml"
    from safetensors.torch import load_file

    saved = load_file(first / "weights.safetensors" if where != "search" else first / "search.safetensors")
    result = run(**options)
    for name, parameter in result.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), saved[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("given", ["network", "file"])
def test_training_anew_starts_from_the_given_weights_once_more(tmp_path: Path, given: str) -> None:
    torch.manual_seed(5)
    start = Network(graph())
    save_file(start.state_dict(), tmp_path / "start.safetensors")
    begun: dict[str, Any] = {"graph": start} if given == "network" else {"weights": tmp_path / "start.safetensors"}
    phases = {"search": {"share": 3}, "retrain": {"share": 2, "lr": 1e-12}}
    options: dict[str, Any] = {"learner": "sparsemask", "training": {"phases": phases, "weight_decay": 0.0}}
    whole = run(**options, **begun)
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), start.state_dict()[name], atol=1e-6, rtol=0)
    for stopped_at in (8, 18):  # in the search, in the second phase

        def stop() -> None:
            raise RuntimeError("stopped")

        folder = tmp_path / f"stopped at {stopped_at}"
        with pytest.raises(RuntimeError, match="stopped"):
            run(folder, **options, **begun, loss=Stopping(stop, at=[stopped_at]))
        assert same(whole, run(folder, **options, resume=True)), "the checkpoint knows what the run began with"


def test_names_of_wrapped_weights_are_the_graphs_own(tmp_path: Path) -> None:
    start = topolearn.compile(graph())
    for name, prefix in (("plain", ""), ("wrapped", "_orig_mod.module.")):
        state = {prefix + key: value for key, value in start.state_dict().items()}
        save_file(state, tmp_path / f"{name}.safetensors")
    plain, wrapped = (run(epochs=2, weights=tmp_path / f"{name}.safetensors") for name in ("plain", "wrapped"))
    assert same(plain, wrapped)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    first = tmp_path / "first"
    run(first, "fixed", epochs=1, rule="full")
    file = str(first / "weights.safetensors")
    message = fails(CheckpointError, weights=file, graph=graph(classes=5), data=(Noisy(13), Noisy(5)))
    assert message == (
        f"{file}: 'nodes.head.linear.weight' is for 4 classes, but the graph is for 5; set 'nodes.head.classes' to 4,"
        " or lift the network with --classes 5, which gives it a new last layer"
    )
    other = loads(graph().to_yaml().replace("  b2: {op: conv_bn_relu, ", "  b2: {op: conv_bn_relu, kernel: 1, "))
    fails(CheckpointError, file, "has shape [3, 3, 3, 3], but the graph needs [3, 3, 1, 1]", weights=file, graph=other)
    wider = loads(graph().to_yaml().replace("a2", "z2"))
    fails(CheckpointError, file, "holds no 'nodes.z2.", "which the graph needs", weights=file, graph=wider)
    smaller = loads(graph().to_yaml().replace("  b2: {op: conv_bn_relu, out_channels: 3", "  b2: {op: relu"))
    fails(CheckpointError, file, "holds 'nodes.b2.", "which the graph does not have", weights=file, graph=smaller)
    fails(CheckpointError, "no such file", weights=tmp_path / "nowhere.safetensors")
    fails(CheckpointError, "no such file; is this the folder of a finished run?", weights=tmp_path)
    (tmp_path / "text").write_text("text")
    fails(CheckpointError, "damaged, or not a safetensors file", weights=tmp_path / "text")
    for zipped in (True, False):
        torch.save({"a": torch.ones(2)}, tmp_path / "my.pt", _use_new_zipfile_serialization=zipped)
        message = fails(CheckpointError, weights=tmp_path / "my.pt")
        assert "my.pt: written by torch.save, but a safetensors file is needed here; for a torchvision" in message
        assert "'topolearn lift MODEL --weights my.pt -o GRAPH.yaml'" in message


def test_weights_beside_the_graph_that_are_not_used_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, beside = tmp_path / "net.yaml", tmp_path / "net.safetensors"
    topolearn.dump_graph(graph(), file)
    options: dict[str, Any] = {"learner": "fixed", "rule": "full", "epochs": 1, "graph": str(file)}
    run(**options)
    assert "lies beside" not in capsys.readouterr().err
    save_file(topolearn.compile(graph()).state_dict(), beside)
    run(**options)
    assert (
        f"{beside} lies beside the graph and is not used; to start from these weights, give --weights {beside}\n"
        in (capsys.readouterr().err)
    )
    run(**options, weights=beside, training={"judge_given": False})
    assert "lies beside" not in capsys.readouterr().err


def test_images_of_another_size_than_the_graphs_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"learner": "fixed", "rule": "full", "epochs": 1, "data": pair("datasets")}
    (note,) = run(**options).notes
    assert note == (
        "the images are 4x4, but the graph's input is 8x6, for which costs and budgets are computed; change it to"
        " 'image: [3, 4, 4]', or lift the network with that size"
    )
    assert note in capsys.readouterr().err
    same_size = loads(graph().to_yaml().replace("[3, 8, 6]", "[3, 4, 4]"))
    assert run(**options, graph=same_size).notes == ()


def test_a_bad_start_leaves_no_run_behind(tmp_path: Path) -> None:
    for options in ({"weights": tmp_path / "nowhere"}, {"fan_in": 9}, {"training": {"phases": {"serch": 1}}}):
        with pytest.raises(TopolearnError):
            run(tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()


def test_loss_metrics_and_callbacks_of_the_users_own() -> None:
    records: list[Any] = []

    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.multi_margin_loss(outputs, targets) + 0 * float(np.random.rand())

    def spoil(record: Any) -> None:
        records.append(dict(record))
        record["lr"] = object()

    metrics = {
        "error": lambda outputs, targets: (outputs.argmax(1) != targets).float().mean(),
        "f1": torchmetrics.classification.MulticlassF1Score(num_classes=4),
    }
    result = run(loss=hinge, metrics=metrics, callbacks=[spoil])
    assert set(result.metrics) == {"loss", "error", "f1"}
    assert [record["epoch"] for record in records] == [1, 2, 3, 1, 2]
    assert records == result.history[:-1], "a callback changed the history"
    assert run(metrics={}).metrics.keys() == {"loss"}


def test_a_loss_that_draws_is_the_same_after_a_resume(tmp_path: Path) -> None:
    def noisy_loss(stop: int | None) -> Any:
        calls = iter(range(1000))

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            if torch.is_grad_enabled() and next(calls) == stop:
                raise RuntimeError("stopped")
            factor = 1 + random.random() + float(np.random.rand()) + float(torch.rand(()))
            return F.cross_entropy(outputs, targets) * (factor if torch.is_grad_enabled() else 1)

        return loss

    whole = run(loss=noisy_loss(None))
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "run", loss=noisy_loss(9))
    assert same(whole, run(tmp_path / "run", loss=noisy_loss(None), resume=True))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda outputs, targets: 1.0, "the loss gives 1.0, but must give one number"),
        (lambda outputs, targets: outputs.sum(1), "the loss gives a tensor (4,)"),
        (lambda outputs, targets: outputs.detach().sum(), "a tensor with a gradient"),
    ],
)
def test_losses_that_cannot_be_trained(loss: Any, text: str) -> None:
    fails(OptionError, text, loss=loss)


def test_a_graph_with_two_outputs_and_a_loss_for_both() -> None:
    two = loads(graph().to_yaml().replace("outputs: [head]", "outputs: [head, stem]"))

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["head"], targets) + outputs["stem"].square().mean()

    result = run(graph=two, loss=loss)
    assert result.metrics.keys() == {"loss"}
    fails(OptionError, "has the outputs head, stem; give a 'loss'", graph=two)


def test_precision() -> None:
    kinds: list[torch.dtype] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        kinds.append(outputs.dtype)
        return F.cross_entropy(outputs.float(), targets)

    for learner in LEARNERS:
        result = run(learner=learner, epochs=2, precision="bfloat16", loss=loss)
        assert set(kinds) == {torch.bfloat16}
        assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}
        assert result.config["precision"] == "bfloat16"
        assert result.metrics["loss"] < 5
    assert run(epochs=2).config["precision"] == "float32"


def test_augmentation_can_be_left_out(tmp_path: Path) -> None:
    asked: list[Any] = []
    from topolearn.data import for_graph as module

    class Stop(Exception):
        pass

    def load(data: Any, **options: Any) -> Any:
        asked.append(options.get("augment"))
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_data", load)
        for augment in (True, False):
            for data in ("digits", tmp_path):
                with pytest.raises(Stop):
                    run(data=data, training={"augment": augment})
    assert asked == [None, None, Augment(), Augment()]
    # What is the user's own has no augmentation but theirs.
    assert run(data=pair("loaders"), epochs=2, training={"augment": False}).metrics
    assert run(data=pair("datasets"), epochs=2, training=dict(TrainOptions(augment=False))).metrics


def test_segmentation_from_end_to_end(tmp_path: Path) -> None:
    class Blobs(Dataset[Any]):
        """The brightest channel is the class; one row has no label."""

        def __init__(self, count: int) -> None:
            coarse = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(count))
            self.images = F.interpolate(coarse, (8, 8))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            mask = self.images[index].argmax(0).to(torch.uint8)
            mask[0] = 255
            return self.images[index] * 2 - 1, mask

    result = run(tmp_path / "run", "sparsemask", (Blobs(32), Blobs(8)), graph=loads(SEGMENTATION), epochs=12, lr=0.1)
    assert set(result.metrics) == {"loss", "miou", "accuracy"}
    assert result.metrics["miou"] > 0.6
    images = torch.stack([Blobs(8)[i][0] for i in range(8)])
    loaded = topolearn.load_model(tmp_path / "run")
    assert loaded(images).shape == (8, 3, 8, 8)
    torch.testing.assert_close(loaded(images), result.model(images))
    assert topolearn.runs.read_result(tmp_path / "run").info.ignore_index == 255


# -- input that cannot be used ------------------------------------------------------------------


def test_a_graph_that_names_no_data_asks_for_some_where_digits_do_not_fit() -> None:
    for options, reason in (
        ({"graph": graph(channels=3)}, "data 'digits' has 1 channel, but input 'image' of graph 'tiny' takes 3"),
        ({"graph": graph(channels=1, classes=7)}, "data 'digits' has 10 classes, but output 'head'"),
    ):
        with pytest.raises(DataError) as caught:
            quick_fit(**options, epochs=2)
        assert str(caught.value).startswith("graph 'tiny' names no data; say what to train on with --data (the default")
        assert reason in str(caught.value)
    named = graph(channels=3).replace(data="digits")
    with pytest.raises(DataError, match=r"^data 'digits' has 1 channel, but input 'image' of graph 'tiny' takes 3"):
        quick_fit(named, epochs=2)


@pytest.mark.parametrize(
    ("options", "error", "texts"),
    [
        ({"graph": graph(classes=7), "data": toy()}, DataError, ["has 4 classes", "'nodes.head.classes' to 4"]),
        ({"graph": graph(channels=1)}, DataError, ["has 3 channels", "takes 1; use images with 1, or change 'inputs'"]),
        ({"graph": loads(SEGMENTATION)}, DataError, ["'toy' is for classification", "segmentation"]),
        ({"data": "cifar11"}, DataError, ["there is no data set 'cifar11'", "did you mean 'cifar10'?"]),
        ({"data": 3}, DataError, ["data is a int"]),
        ({"data": (Items([]), Items([]))}, DataError, ["the training set is empty"]),
        ({"device": "gpu"}, OptionError, ["device 'gpu' cannot be used: "]),
        ({"device": 1.5}, OptionError, ["device '1.5' cannot be used: "]),
        ({"graph": graph(learnable=False)}, OptionError, ["no learnable edges", "train it with learner 'fixed'"]),
        ({"graph": torch.nn.Linear(2, 2)}, OptionError, ["not a Linear; compile a graph first, or lift"]),
        ({"graph": 3}, OptionError, ["not a int"]),
        ({"learner": "masconnect"}, OptionError, ["unknown learner 'masconnect'; did you mean 'maskconnect'?"]),
        ({"learner": MaskConnect}, OptionError, ["a learner is given by name, or made for the graph"]),
        ({"fanin": 2}, OptionError, ["unknown option 'fanin'", "did you mean 'fan_in'?"]),
        ({"fan_in": 0}, OptionError, ["'fan_in' of learner 'maskconnect' is 0"]),
        ({"fan_in": 4}, OptionError, ["fan_in 4 is larger than every candidate set", "use at most 3"]),
        ({"epochs": 0}, OptionError, ["'epochs' of fit is 0, but it should be greater than 0"]),
        ({"epochs": 2.5}, OptionError, ["'epochs' of fit is 2.5"]),
        ({"epochs": 10**400}, OptionError, ["'epochs' of fit is 1000", "at most 1000000000"]),
        ({"batch_size": 10**10}, OptionError, ["'batch_size' of fit is 1000", "at most 1000000000"]),
        ({"epochs": 1}, OptionError, ["1 epoch is too few for the phases search, fine_tune"]),
        ({"batch_size": -1}, OptionError, ["'batch_size' of fit is -1"]),
        ({"lr": 0}, OptionError, ["'lr' of fit is 0"]),
        ({"lr": float("nan")}, OptionError, ["'lr' of fit is nan"]),
        ({"seed": -1}, OptionError, ["'seed' of fit is -1"]),
        ({"precision": "half"}, OptionError, ["'precision' of fit is 'half'", "'auto', 'float32' or 'bfloat16'"]),
        (
            {"training": {"node_lr": {"stam": 0.1}}},
            OptionError,
            ["'node_lr' names 'stam', which graph 'tiny' does not have; did you mean 'stem'?"],
        ),
        ({"training": {"node_lr": {"a[2..1]": 0.1}}}, OptionError, ["'node_lr': the range 'a[2..1]' is empty"]),
        ({"training": {"node_lr": {"stem": 0.0}}}, OptionError, ["'node_lr.stem' of training is 0.0"]),
        ({"metrics": ["accuracy"]}, OptionError, ["'metrics' is a mapping"]),
        ({"weights": {}}, OptionError, ["'weights' is a safetensors file or the folder of a run, not {}"]),
        ({"resume": True}, OptionError, ["'resume' needs the folder of the run"]),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[TopolearnError], texts: list[str]) -> None:
    fails(error, *texts, **options)


def test_training_is_a_mapping() -> None:
    with pytest.raises(OptionError, match="'training' is a mapping of options"):
        quick_fit(graph(), data=pair(), training=["schedule"])


def test_fixed_works_without_learnable_edges() -> None:
    result = run(learner="fixed", graph=graph(learnable=False), epochs=1)
    assert result.graph == graph(learnable=False)


def test_labels_that_were_not_met_are_the_graphs_own() -> None:
    """A pair that does not name its classes may have fewer labels than the graph has outputs, not more."""
    assert run(data=(Noisy(13), Noisy(5)), epochs=2).config["classes"] == ("0", "1", "2", "3")
    fails(DataError, "has 3 classes", "'head' of graph 'tiny' has 2", graph=graph(classes=2), data=(Noisy(9), Noisy(5)))
    images = [(torch.zeros(3, 4, 4), label) for label in (0, 1)]
    named = Items(images, classes=["cat", "dog"]), Items(images)
    fails(DataError, "has 2 classes", "has 4; set 'nodes.head.classes' to 2", data=named)
    rare = Items(images), Items([*images, (torch.zeros(3, 4, 4), 3)])
    assert run(data=rare, epochs=2, batch_size=2).config["classes"] == ("0", "1", "2", "3")


def test_defaults_by_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from topolearn.training import prepare as module

    def stop(*_: Any, **__: Any) -> Any:
        raise OptionError("stopped")

    found: list[Any] = []
    monkeypatch.setattr(module, "schedule", lambda learner, epochs, shares: found.append((learner, epochs)) or stop())
    with pytest.raises(OptionError, match="stopped"):
        quick_fit("digits")
    learner, epochs = found[0]
    assert (learner.learner_name, epochs) == ("maskconnect", 40)
