"""A run that is given a trained network: it is judged before anything changes, on data as it knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import topolearn
from tests.data.toys import info
from tests.training.runs import Stopping, graph, quick_fit, run
from topolearn.compiler import Network
from topolearn.data import TensorData
from topolearn.errors import DataError, TrainingError
from topolearn.runs import FitResult, read_config, read_result
from topolearn.runs.folder import CONFIG, WEIGHTS
from topolearn.runs.tensor_files import read_about, save_tensors

COLOURS = ((30, 30, 30), (220, 30, 30), (30, 220, 30), (30, 30, 220))


def colours(order: str = "abcd", mean: float = 0.4, std: float = 0.3) -> TensorData:
    """Images of one colour for each class, which is easily learned; ``order``: how the classes are numbered."""
    numbers = torch.Generator().manual_seed(3)

    def split(count: int) -> tuple[Tensor, Tensor]:
        kinds = torch.arange(count) % 4
        noise = torch.randint(-25, 25, (count, 3, 8, 6), generator=numbers)
        images = (torch.tensor(COLOURS)[kinds][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
        return images, torch.tensor([order.index("abcd"[kind]) for kind in kinds.tolist()])

    return TensorData(info(classes=tuple(order), mean=(mean,) * 3, std=(std,) * 3), split(64), split(40))


@dataclass
class Trained:
    """A network that has learned the colours, and its accuracy."""

    net: Network
    accuracy: float

    def copy(self, **about: Any) -> Network:
        """The same, knowing something else of its data."""
        net = topolearn.compile(self.net)
        net.about = about
        return net


@pytest.fixture(scope="module")
def trained() -> Trained:
    torch.manual_seed(0)
    net, data = topolearn.compile(graph()), colours()
    (optimizer,) = topolearn.optimizers(net, lr=0.05, momentum=0.9)
    for epoch in range(15):
        for images, targets in data.train_batches(8, seed=0, epoch=epoch):
            optimizer.zero_grad()
            cross_entropy(net(images), targets).backward()
            optimizer.step()
    net.eval()
    right = [net(images).argmax(1) == targets for images, targets in data.val_batches(8)]
    accuracy = float(torch.cat(right).float().mean())
    assert accuracy > 0.7
    net.about = {"mean": [0.4] * 3, "std": [0.3] * 3, "classes": list("abcd")}
    return Trained(net, accuracy)


def again(start: Any, data: Any = None, learner: str = "maskconnect", **options: Any) -> FitResult:
    """A short run from there."""
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.01}
    return quick_fit(start, learner, colours() if data is None else data, **(settings | options))


def test_a_given_network_is_judged_before_anything_changes(trained: Trained) -> None:
    result = again(trained.net)
    assert result.given_metrics["accuracy"] == pytest.approx(trained.accuracy)
    row = next(cells for cells in result.table().cells() if cells[0] == "accuracy")
    assert row[1] == f"{trained.accuracy:.2%}"
    assert row[-1].endswith(" points")


def test_so_are_given_weights(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_tensors(file, trained.net.state_dict(), {"about": trained.net.about})
    for data in (colours(), colours("dbca")):
        assert again(graph(), data, weights=file).given_metrics["accuracy"] == pytest.approx(trained.accuracy)


@pytest.mark.parametrize("file", ["", WEIGHTS])
def test_and_those_of_a_run(trained: Trained, tmp_path: Path, file: str) -> None:
    first = again(trained.net, out=tmp_path / "run")
    result = again(first.graph, colours("dbca"), "fixed", weights=tmp_path / "run" / file)
    assert result.given_metrics == first.metrics


def test_a_random_start_is_not_judged(trained: Trained) -> None:
    assert again(graph()).given_metrics == {}
    assert again(topolearn.compile(graph())).given_metrics == {}


def test_a_last_layer_that_is_new_is_not_judged(trained: Trained) -> None:
    net = trained.copy(mean=[0.4] * 3, std=[0.3] * 3)  # as pretrained weights with another number of classes
    assert again(net).given_metrics == {}


def test_a_new_last_layer_is_not_judged_whatever_else_is_known(trained: Trained, tmp_path: Path) -> None:
    """Weights from a file say nothing of their data."""
    net = trained.copy(new_layer="fc")
    result = again(net, colours("bcda"), out=tmp_path / "run")
    assert result.given_metrics == {}
    assert read_config(tmp_path / "run" / CONFIG)["new_layer"] == "fc"
    assert "new_layer" not in result.model.about  # it has been trained
    file = tmp_path / "net.safetensors"
    save_tensors(file, net.state_dict(), {"about": net.about})
    assert again(graph(), colours("bcda"), weights=file).given_metrics == {}
    assert again(net, colours("bcda"), out=tmp_path / "run", resume=True).given_metrics == {}
    assert "new_layer" not in again(trained.net, out=tmp_path / "other").config


def test_neither_is_a_network_for_other_classes(trained: Trained) -> None:
    net = trained.copy(mean=[0.4] * 3, std=[0.3] * 3, classes=["w", "x", "y", "z"])
    assert again(net).given_metrics == {}


def test_data_are_seen_as_the_network_knows_them(trained: Trained, tmp_path: Path) -> None:
    """Other means and another order of the classes change nothing: those of the network count."""
    usual = again(trained.net, out=tmp_path / "usual")
    other = again(trained.net, colours("dbca", mean=0.9, std=0.05), out=tmp_path / "other")
    assert other.given_metrics == usual.given_metrics
    assert other.history[0]["train_loss"] == usual.history[0]["train_loss"]
    for folder in ("usual", "other"):
        config = read_config(tmp_path / folder / CONFIG)
        assert config["mean"] == (0.4, 0.4, 0.4)
        assert config["classes"] == tuple("abcd")
    assert other.model.about["classes"] == list("abcd")


def test_options_come_first(trained: Trained) -> None:
    result = again(trained.net, training={"mean": (0.1, 0.2, 0.3)})
    assert result.config["mean"] == (0.1, 0.2, 0.3)
    assert result.config["std"] == (0.3, 0.3, 0.3)
    assert again(graph(), training={"std": (0.5, 0.75, 1.0)}).config["std"] == (0.5, 0.75, 1.0)
    with pytest.raises(DataError, match="'mean' has 1 numbers, but images of 'toy' have 3 channels"):
        again(graph(), training={"mean": (0.5,)})


def test_a_network_of_unknown_classes_that_guesses_is_an_error(trained: Trained, tmp_path: Path) -> None:
    net = trained.copy()
    shifted = colours("bcda", mean=0.4, std=0.3)
    with pytest.raises(TrainingError, match="no better than guessing among 4 classes"):
        again(net, shifted, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing stands in the way of the next try
    result = again(net, shifted, out=tmp_path / "anyway", training={"judge_given": False})
    assert result.given_metrics["accuracy"] < 0.3


def test_what_was_measured_survives_an_interruption(trained: Trained, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"out": tmp_path / "run", "training": {"checkpoint_steps": 1}}
    with pytest.raises(KeyboardInterrupt):
        again(trained.net, loss=Stopping(stop, at=[3]), **options)
    result = again(trained.net, resume=True, loss=Stopping(stop), **options)
    assert result.given_metrics["accuracy"] == pytest.approx(trained.accuracy)
    assert read_result(tmp_path / "run").given_metrics == result.given_metrics


def test_a_run_that_is_pruned_again_remembers_it(trained: Trained, tmp_path: Path) -> None:
    from topolearn.studies.reprune import reprune

    result = again(trained.net, out=tmp_path / "run")
    with pytest.warns(UserWarning, match="cannot be found"):
        pruned = reprune(tmp_path / "run", tmp_path / "pruned", {"fan_in": "1"}, device="cpu")
    assert pruned.given_metrics == result.given_metrics


def test_files_of_weights_say_what_they_know(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", {}, {"about": {"mean": [0.5]}})
    assert read_about(tmp_path / "w.safetensors") == {"about": {"mean": [0.5]}}
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert read_about(tmp_path / "broken.safetensors") == {}
    assert run().given_metrics == {}
