"""``shrink``: lift, adapt if classes differ, score, prune, fine-tune."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import topolearn
from tests.shrinking import MODEL, folder, weights
from topolearn.errors import OptionError

__all__ = ["folder", "weights"]  # fixtures


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


class Net(nn.Module):
    """Four blocks, and three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.blocks = nn.Sequential(*[Block(4) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


def pictures(classes: int = 3) -> tuple[TensorDataset, TensorDataset]:
    numbers = torch.Generator().manual_seed(0)
    images, labels = torch.rand(24, 3, 8, 8, generator=numbers), torch.arange(24) % classes
    return TensorDataset(images[:16], labels[:16]), TensorDataset(images[16:], labels[16:])


@pytest.mark.filterwarnings("ignore:the network that is scored is not trained")
@pytest.mark.parametrize("learner", ["ablation", "random_blocks", "continuous"])
def test_a_network_of_your_own(learner: str) -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = topolearn.shrink(
        model, pictures(), {"macs": 0.65}, learner=learner, size=8, epochs=2, batch_size=8, quiet=True
    )
    assert result.spent is not None
    assert result.graph.cost.macs <= 0.65 * result.searched.cost.macs
    assert result.config["learner"] == learner
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    small = topolearn.unlift(result.model)
    assert isinstance(small, Net)
    assert sum(isinstance(block, Block) for block in small.blocks) <= 3


@pytest.mark.filterwarnings("ignore:the network that is scored is not trained")
def test_a_network_that_is_lifted_already() -> None:
    options = {"size": 8, "epochs": 1, "batch_size": 8, "learner": "taylor", "quiet": True}
    model = Net()
    lifted = topolearn.lift(model, size=8)
    first = topolearn.shrink(nn.DataParallel(lifted), pictures(), {"macs": 0.65}, **options)
    second = topolearn.shrink(model, pictures(), {"macs": 0.65}, **options)
    assert first.graph == second.graph
    assert first.metrics == second.metrics


def test_a_new_last_layer_is_trained_first(folder: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    options = {"weights": weights, "learner": "taylor", "size": 32, "batch_size": 8, "out": out, "quiet": True}
    result = topolearn.shrink(MODEL, folder, {"params": 0.9}, epochs=2, export=False, batches=1, **options)
    assert [record["phase"] for record in result.history] == ["adapt", "fine_tune", "result"]
    assert result.given_metrics["loss"] == result.history[0]["val_loss"]
    assert result.removed_metrics
    assert result.graph.cost.params <= 0.9 * result.searched.cost.params
    again = topolearn.shrink(MODEL, folder, {"params": 0.9}, epochs=2, export=False, batches=1, resume=True, **options)
    assert again.metrics == result.metrics


@pytest.mark.filterwarnings("ignore:the network that is scored is not trained")
def test_what_cannot_be_shrunk() -> None:
    with pytest.raises(OptionError, match="shrink needs a trained network: give the weights of 'resnet18'"):
        topolearn.shrink("resnet18", pictures(), {"macs": 0.5})
    with pytest.raises(
        OptionError, match=r"the network has 3 outputs, but data .* have 4 classes; give it another last"
    ):
        topolearn.shrink(Net(), pictures(4), {"macs": 0.5}, size=8)
    with pytest.raises(OptionError, match=r"'budget' of shrink is 0\.5; name what it limits, as \{'macs': 0\.6\}"):
        topolearn.shrink(Net(), pictures(), 0.5, size=8)
    lifted = topolearn.lift(Net(), size=8)
    with pytest.raises(OptionError, match="is lifted already and has its weights; leave out 'weights'"):
        topolearn.shrink(lifted, pictures(), {"macs": 0.5}, weights="net.pth")
    with pytest.raises(OptionError, match="is lifted already, for images of 8 x 8; leave out 'size'"):
        topolearn.shrink(lifted, pictures(), {"macs": 0.5}, size=(8, 9))
    options = {"learner": "random_blocks", "size": 8, "epochs": 1, "batch_size": 8, "quiet": True}
    options["training"] = {"judge_given": False}
    pruned = topolearn.shrink(Net(), pictures(), {"macs": 0.65}, **options).model
    with pytest.raises(OptionError, match=r"this network has been pruned; .*, shrink topolearn.unlift\(network\)"):
        topolearn.shrink(pruned, pictures(), {"macs": 0.5})
    again = topolearn.shrink(topolearn.unlift(pruned), pictures(), {"macs": 0.6}, **options)
    assert again.graph.cost.macs <= 0.6 * pruned.graph.cost.macs


def test_graph_files_and_runs_are_told_their_way(tmp_path: Path) -> None:
    command = r"topolearn fit net.yaml --weights FILE --learner taylor --set budget.params=0.5"
    with pytest.raises(OptionError, match=command):
        topolearn.shrink("net.yaml", pictures(), {"params": 0.5}, learner="taylor")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(
        OptionError, match=r"is the folder of a run; in Python, shrink topolearn.unlift\(topolearn.load"
    ):
        topolearn.shrink(str(tmp_path), pictures(), {"params": 0.5})
