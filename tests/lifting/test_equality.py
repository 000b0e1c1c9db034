"""A lifted network computes what torchvision's computes: every model of every family, in eval and in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

import topolearn
from tests.lifting.networks import images, in_families, network, no_initialisation, randomise, relative
from topolearn.compiler import Network
from topolearn.lifting.convert import outline

LARGE = {"wide_resnet101_2", "regnet_x_32gf", "regnet_y_32gf", "regnet_y_128gf"}
"""More than 100 M parameters; the others take at most two seconds."""

TOLERANCE = 1e-5


def lift(model: nn.Module, **options: object) -> Network:
    with no_initialisation():
        return topolearn.lift(model, **options)  # type: ignore[arg-type]


def agree(model: nn.Module, net: Network, x: torch.Tensor) -> None:
    """The same outputs in both modes, and running statistics after a batch of training."""
    for training in (False, True):
        model.train(training)
        net.train(training)
        outputs = []
        for each in (model, net):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout
                torch.manual_seed(7)
                outputs.append(each(x))
        wanted, found = outputs
        assert wanted.std(0).max() > 0  # it depends on the image
        assert relative(found, wanted) <= TOLERANCE, "training" if training else "eval"
    for theirs, ours in outline(model, "model", (64, 64)).places.items():
        statistics = dict(model.get_submodule(theirs).named_buffers())
        found_statistics = dict(net.get_submodule(ours).named_buffers())
        assert found_statistics.keys() == statistics.keys()
        for name, value in statistics.items():
            assert relative(found_statistics[name], value) <= TOLERANCE, f"{theirs}.{name}"
            assert name != "num_batches_tracked" or value == 8


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in in_families()])
def test_every_network(name: str) -> None:
    model = network(name)
    agree(model, lift(model), images())


def test_the_families_are_all_there() -> None:
    assert len(in_families()) == 26
    assert {
        "resnet18",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "regnet_x_32gf",
        "regnet_y_128gf",
        "mobilenet_v2",
    } <= set(in_families())


def small_resnet(**options: object) -> nn.Module:
    with no_initialisation():
        return models.ResNet(models.resnet.Bottleneck, [1, 2, 3, 2], num_classes=7, **options)  # type: ignore[arg-type]


def without_shortcut(model: nn.Module) -> nn.Module:
    model.features[6].use_res_connect = False
    return model


VARIANTS = {
    "mobilenet with a shortcut less": lambda: without_shortcut(models.mobilenet_v2(num_classes=5)),
    "dilated": lambda: small_resnet(replace_stride_with_dilation=[False, True, True]),
    "grouped": lambda: small_resnet(groups=4, width_per_group=8),
    "one block in each stage": lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
    "mobilenet at width 0.35": lambda: models.mobilenet_v2(width_mult=0.35, num_classes=5),
    "mobilenet at width 1.4": lambda: models.mobilenet_v2(width_mult=1.4, dropout=0.5),
    "mobilenet that opens with a residual": lambda: models.MobileNetV2(
        num_classes=4, inverted_residual_setting=[[1, 32, 2, 1], [6, 16, 1, 2], [4, 16, 2, 1], [6, 24, 1, 1]]
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_that_torchvision_can_be_asked_for(name: str) -> None:
    with no_initialisation():
        model = randomise(VARIANTS[name]())
    agree(model, lift(model), images())


def test_a_stem_for_small_images_and_another_number_of_channels() -> None:
    model = small_resnet()
    model.conv1 = nn.Conv2d(1, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    net = lift(randomise(model), size=32)
    assert net.graph.input_size("image") == (1, 32, 32)
    assert "maxpool" not in net.graph.nodes
    agree(model, net, images(side=16, channels=1))


def test_a_model_whose_blocks_were_taken_out() -> None:
    model = models.resnet18(num_classes=5)
    model.layer3 = nn.Sequential(model.layer3[0])
    agree(randomise(model), lift(model), images())


@pytest.mark.parametrize("side", [(65, 47), (33, 100)])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_y_400mf"])
def test_images_of_any_size(name: str, side: tuple[int, int]) -> None:
    model = network(name).eval()
    net = lift(model)
    with torch.no_grad():
        assert relative(net(images(2, side)), model(images(2, side))) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_precision_comes_along(dtype: torch.dtype) -> None:
    model = network("resnet18").to(dtype).eval()
    net = lift(model)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert not net.training
    with torch.no_grad():
        tolerance = TOLERANCE if dtype == torch.float64 else 0.02
        assert relative(net(images(1).to(dtype)), model(images(1).to(dtype))) <= tolerance


def test_gradients_are_torchvisions() -> None:
    model = network("regnet_y_400mf", num_classes=5).double().train()
    net = lift(model)
    x = images(2, 32).double()
    for each in (model, net):
        each(x).square().sum().backward()
    compared = 0
    for theirs, ours in outline(model, "model", (32, 32)).places.items():
        parameters = dict(net.get_submodule(ours).named_parameters())
        for name, value in model.get_submodule(theirs).named_parameters():
            torch.testing.assert_close(parameters[name].grad, value.grad, rtol=1e-8, atol=1e-8)
            assert value.grad is not None
            compared += value.numel()
    assert compared == net.graph.cost.params


def test_the_model_stays_as_it_was_and_shares_nothing() -> None:
    model = network("resnet18", num_classes=5).train()
    model.layer2.eval()  # modes of the parts too
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    net = lift(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.zero_()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
