"""Which weights a lifted network gets: the model's, random ones, torchvision's pretrained ones, or a file's."""

from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet18_Weights, ResNet34_Weights, WeightsEnum

import topolearn
from tests.lifting.networks import images, network, relative
from topolearn.errors import CheckpointError, LiftError, OptionError


def outputs(net: nn.Module) -> Tensor:
    with torch.no_grad():
        out: Tensor = net.eval()(images(2))
    return out


def same(net: nn.Module, model: nn.Module) -> None:
    assert relative(outputs(net), outputs(model)) <= 1e-5


@pytest.fixture(params=[".pth", ".pt", ".safetensors"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Weights of a ResNet-18 of five classes."""
    path = tmp_path / f"weights{request.param}"
    write(network("resnet18", num_classes=5).state_dict(), path)
    return path


def write(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(state, str(path))
    else:
        torch.save(state, path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A ResNet-18 of 1000 classes that stands in for every download."""
    model = network("resnet18")
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **options: model.state_dict())
    return model


def test_a_name_gets_the_random_weights_that_torchvision_would_give() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = models.resnet18(num_classes=7)
        torch.manual_seed(3)
        net = topolearn.lift("resnet18", classes=7)
    assert net.training
    assert net.graph.name == "resnet18"
    same(net, model)


def test_without_a_number_of_classes_a_name_has_imagenets() -> None:
    assert topolearn.lift("mobilenet_v2").graph.nodes["classifier"].params["classes"] == 1000


def test_a_file_for_a_name_brings_its_number_of_classes(file: Path) -> None:
    model = network("resnet18", num_classes=5)
    for path in (file, str(file)):
        net = topolearn.lift("resnet18", path)
        assert net.graph.nodes["fc"].params["classes"] == 5
        same(net, model)


def test_a_file_for_another_number_of_classes_gets_a_new_last_layer(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = topolearn.lift("resnet18", file, classes=3)
    assert capsys.readouterr().err == "the last layer 'fc' starts at random: 5 classes in the weights, not 3\n"
    assert net.about == {"new_layer": "fc"}
    assert topolearn.prune(net).about == net.about
    assert topolearn.lift("resnet18", file).about == {}
    head = net.nodes["fc"].linear
    assert head.weight.shape == (3, 512)
    assert 0.02 < float(head.weight.detach().std()) < 0.03  # as nn.Linear starts
    backbone = topolearn.features(net, ["layer4"])
    wanted = topolearn.features(topolearn.lift(network("resnet18", num_classes=5)), ["layer4"])
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images(1))["layer4"], wanted.eval()(images(1))["layer4"])


def test_a_file_for_a_model_leaves_the_model_alone(file: Path) -> None:
    model = models.resnet18(num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same(topolearn.lift(model, file), network("resnet18", num_classes=5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_mobilenets_last_layer_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(network("mobilenet_v2", num_classes=6).state_dict(), path)
    assert topolearn.lift("mobilenet_v2", path).graph.nodes["classifier"].params["classes"] == 6
    net = topolearn.lift("mobilenet_v2", path, classes=2)
    assert net.nodes["classifier"].linear.weight.shape == (2, 1280)


def test_a_file_from_before_batches_were_counted(tmp_path: Path) -> None:
    model = network("resnet18", num_classes=5)
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    same(topolearn.lift("resnet18", tmp_path / "old.pth"), model)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_names_of_a_wrapped_network_are_its_own(tmp_path: Path, name: str) -> None:
    model, path = network("resnet18", num_classes=5), tmp_path / name
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."):
        write({prefix + key: value for key, value in model.state_dict().items()}, path)
        same(topolearn.lift("resnet18", path), model)
        same(topolearn.lift(models.resnet18(num_classes=5), path), model)
    write({f"module.{key}" if "bn1" in key else key: value for key, value in model.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match=r"holds no 'bn1\.weight', which this ResNet needs"):
        topolearn.lift("resnet18", path)


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "net"])
def test_weights_may_be_one_entry_of_a_checkpoint(tmp_path: Path, entry: str) -> None:
    model, path = network("resnet18", num_classes=5), tmp_path / "last.pth"
    for prefix in ("", "model."):
        state = {prefix + key: value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, entry: state, "best": 0.5}, path)
        same(topolearn.lift("resnet18", path), model)


def test_a_checkpoint_that_holds_code_names_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    torch.save({"state_dict": network("resnet18", num_classes=5).state_dict(), "args": Namespace(lr=0.1)}, path)
    with pytest.raises(CheckpointError) as caught:
        topolearn.lift("resnet18", path)
    assert str(caught.value) == (
        f"{path}: cannot be read as a state dict (Unsupported global: GLOBAL argparse.Namespace was not an allowed"
        " global by default); save model.state_dict()"
    )


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", ResNet18_Weights.DEFAULT])
def test_pretrained_weights_tell_what_they_were_trained_on(hub: nn.Module, weights: Any) -> None:
    net = topolearn.lift("resnet18", weights)
    same(net, hub)
    assert net.about["classes"][:2] == ["tench", "goldfish"]
    assert (net.about["mean"], net.about["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_pretrained_weights_for_other_classes(hub: nn.Module) -> None:
    net = topolearn.lift("resnet18", "DEFAULT", classes=4)
    assert set(net.about) == {"mean", "std", "new_layer"}
    assert net.about["new_layer"] == "fc"
    assert torch.equal(net.nodes["conv1"].conv.weight, hub.conv1.weight)
    assert net.nodes["fc"].linear.weight.shape == (4, 512)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("IMAGENET1K_V3", "'resnet18' has no weights 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V1'.*or name a file"),
        (ResNet34_Weights.DEFAULT, "'resnet18' has no weights 'ResNet34_Weights.IMAGENET1K_V1'"),
    ],
)
def test_pretrained_weights_that_there_are_not(weights: Any, message: str) -> None:
    with pytest.raises(LiftError, match=message):
        topolearn.lift("resnet18", weights)


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: WeightsEnum, *args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(
        LiftError, match=r"'IMAGENET1K_V1' of 'resnet18': no route to host; give a file.*resnet18-f37072fd\.pth'"
    ):
        topolearn.lift("resnet18", "DEFAULT")


def test_pretrained_weights_are_for_a_name() -> None:
    with pytest.raises(OptionError, match=r"weights 'DEFAULT' are not a file; .* lift\('resnet50', 'DEFAULT'\)"):
        topolearn.lift(models.resnet18(num_classes=5), "DEFAULT")


@pytest.mark.parametrize("weights", [5, ["a.pth"], nn.Linear(2, 2)])
def test_weights_of_another_kind(weights: Any) -> None:
    with pytest.raises(OptionError, match="'weights' is a file or the name of torchvision's weights, not"):
        topolearn.lift("resnet18", weights)


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("name", ["trap.pth", "trap.pt", "trap.bin"])
def test_a_file_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    torch.save({"fc.weight": Trap()}, path)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read as a state dict"):
        topolearn.lift("resnet18", path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read as a state dict"):
        topolearn.lift("resnet18", path)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_files_that_hold_something_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=r"no such file; name a \.safetensors or \.pth file"):
        topolearn.lift("resnet18", path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match=r"cannot be read|damaged, or not a safetensors"):
        topolearn.lift("resnet18", path)
    state = network("resnet18", num_classes=5).state_dict()
    if path.suffix == ".pth":
        torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, path)
        with pytest.raises(
            CheckpointError, match=r"does not hold a state dict \('epoch', 'optimizer'\); save model\.state"
        ):
            topolearn.lift("resnet18", path)
    for change, message in (
        ({"conv1.weight": None}, r"holds no 'conv1\.weight', which this ResNet needs; give weights of this network"),
        ({"bn1.bias": torch.ones(3)}, r"'bn1\.bias' has shape \[3\], but this ResNet needs \[64\]"),
        ({"head.weight": torch.ones(3)}, r"holds 'head\.weight', which this ResNet does not have"),
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        write(changed, path)
        for model in ("resnet18", models.resnet18(num_classes=5)):
            with pytest.raises(CheckpointError, match=message):
                topolearn.lift(model, path)


def test_weights_of_another_network(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no 'layer1\.2\.conv1\.weight', which this ResNet needs"):
        topolearn.lift("resnet34", file)


class Tied(nn.Module):
    """A network whose layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(torch.relu(self.one(self.stem(x)))).mean((2, 3)))


def test_tied_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 2)
    net = topolearn.lift(Tied(), size=8)
    options = {"batch_size": 4, "device": "cpu", "export": False, "training": {"judge_given": False}}
    result = topolearn.fit(
        net, "fixed", (data, data), epochs=1, rule="given", out=tmp_path / "run", quiet=True, **options
    )
    again = topolearn.load_model(tmp_path / "run", sources={"net": Tied()})
    assert torch.equal(again(torch.ones(1, 3, 8, 8)), result.model(torch.ones(1, 3, 8, 8)))
    back = topolearn.unlift(again)
    assert back.two.weight is back.one.weight
