"""At K = C a network of ResNeXt branches is a plain ResNeXt, written here without topolearn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from topolearn.compiler import Network
from topolearn.format import loads
from topolearn.learners import Fixed, MaskConnect

STAGES, PER_STAGE, BRANCHES, WIDTH, STEM, CLASSES = 2, 2, 4, 3, 8, 5
OUT = (8, 16)

GRAPH = """
topolearn: 1
name: resnext
task: classification
inputs: {image: [3, 12, 12]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 8}
  m[1..2]_[1..4]: {op: resnext.branch, width: 3, out_channels: 8, aggregate: mean, residual_scale: fan_in}
  m3_[1..4]: {op: resnext.branch, width: 6, out_channels: 16, stride: 2, aggregate: mean, residual_scale: fan_in,
              share: {projection: reduce}}
  m4_[1..4]: {op: resnext.branch, width: 6, out_channels: 16, aggregate: mean, residual_scale: fan_in}
  join: {op: identity, aggregate: mean}
  head: {op: classifier, classes: 5, activation: relu}
edges:
  - {from: image, to: stem}
  - {from: stem, to: "m1_[1..4]"}
  - {connect: bipartite, from: "m1_[1..4]", to: "m2_[1..4]", learnable: true}
  - {connect: bipartite, from: "m2_[1..4]", to: "m3_[1..4]", learnable: true}
  - {connect: bipartite, from: "m3_[1..4]", to: "m4_[1..4]", learnable: true}
  - {from: "m4_[1..4]", to: join}
  - {from: join, to: head}
outputs: [head]
"""


class Module(nn.Module):
    """``x + sum_i F_i(relu(x))``, with the branches F_i as grouped convolutions and a BN after each one's last 1x1."""

    def __init__(self, channels: int, out: int, width: int, stride: int) -> None:
        super().__init__()
        wide = BRANCHES * width
        self.conv1, self.bn1 = nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, stride, 1, groups=BRANCHES, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv3 = nn.Conv2d(wide, BRANCHES * out, 1, groups=BRANCHES, bias=False)
        self.bn3 = nn.BatchNorm2d(BRANCHES * out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        u = F.relu(x)
        f = F.relu(self.bn1(self.conv1(u)))
        f = F.relu(self.bn2(self.conv2(f)))
        f = self.bn3(self.conv3(f))
        branches = f.view(len(x), BRANCHES, -1, *f.shape[2:]).sum(1)
        shortcut: Tensor = self.shortcut(u)
        return shortcut + branches


class ResNeXt(nn.Module):
    """The plain network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, STEM, 3, 1, 1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
        modules, channels = [], STEM
        for stage in range(STAGES):
            for i in range(PER_STAGE):
                modules.append(Module(channels, OUT[stage], WIDTH * 2**stage, 2 if stage and not i else 1))
                channels = OUT[stage]
        self.body = nn.Sequential(*modules)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.body(self.stem(image))).mean((2, 3)))
        return logits


def plain_state(net: Network, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a network of branches holds (its state, or its gradients), under the names of the plain one."""
    found: dict[str, Tensor] = {}

    def put(ours: str, theirs: str, members: list[str]) -> None:
        for name in values:
            if name.startswith(f"{members[0]}.{ours}."):
                tail = name.removeprefix(f"{members[0]}.{ours}.")
                tensors = [values[f"{member}.{ours}.{tail}"] for member in members]
                found[f"{theirs}.{tail}"] = tensors[0] if tensors[0].dim() == 0 else torch.cat(tensors)

    put("conv", "stem.0", ["nodes.stem"])
    put("bn", "stem.1", ["nodes.stem"])
    put("linear", "head", ["nodes.head"])
    for module in range(STAGES * PER_STAGE):
        members = [f"nodes.m{module + 1}_{branch + 1}" for branch in range(BRANCHES)]
        for layer in range(3):
            put(f"residual.{layer}.conv", f"body.{module}.conv{layer + 1}", members)
            put(f"residual.{layer}.bn", f"body.{module}.bn{layer + 1}", members)
    put("conv", "body.2.shortcut.0", ["shared.reduce"])
    put("bn", "body.2.shortcut.1", ["shared.reduce"])
    return found


def close(found: Tensor, wanted: Tensor, what: str) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("reference", [False, True], ids=["compiled", "reference"])
@pytest.mark.parametrize("learner", ["maskconnect", "fixed", None])
def test_at_full_fan_in_it_is_a_plain_resnext(learner: str | None, reference: bool) -> None:
    graph = loads(GRAPH)
    torch.manual_seed(0)
    edge_learner = {"maskconnect": MaskConnect(graph, fan_in=BRANCHES, lr_scale=0.0, update="literal")}.get(
        learner or ""
    )
    if learner == "fixed":
        edge_learner = Fixed(graph, rule="full")
    ours = topolearn.compile(graph, edge_learner, reference=reference).double().train()
    plain = ResNeXt().double().train()
    plain.load_state_dict(plain_state(ours, ours.state_dict()))
    optimizers = [*topolearn.optimizers(ours, lr=0.05), torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)]
    batch, side = 4, 12
    for _ in range(3):
        images, labels = torch.randn(batch, 3, side, side, dtype=torch.float64), torch.randint(CLASSES, (batch,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        outputs = [net(images) for net in (ours, plain)]
        close(outputs[0], outputs[1], "outputs")
        for output in outputs:
            F.cross_entropy(output, labels).backward()
        gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        ours_by_name = plain_state(ours, gradients)
        for name, parameter in plain.named_parameters():
            assert parameter.grad is not None
            close(ours_by_name[name], parameter.grad, name)
        for optimizer in optimizers:
            optimizer.step()
        if edge_learner is not None:
            edge_learner.after_step()
    ours_by_name = plain_state(ours, ours.state_dict())
    for name, wanted in plain.state_dict().items():
        found = ours_by_name[name]
        if name == "body.2.shortcut.1.running_var":
            # The shared projection's batch holds every branch's input: C times the values of the plain
            # network's, so that the unbiased variance n / (n - 1) differs, and nothing else.
            n, start = batch * (side // 2) ** 2, 0.9**3
            unbiased = [count / (count - 1) for count in (BRANCHES * n, n)]
            wanted = start + (wanted - start) * unbiased[0] / unbiased[1]
            plain.get_submodule("body.2.shortcut.1").running_var.copy_(wanted)
        close(found, wanted, name)
    ours.eval()
    plain.eval()
    images = torch.randn(batch, 3, side, side, dtype=torch.float64)
    close(ours(images), plain(images), "outputs in eval mode")


def test_the_branches_together_start_with_the_variance_of_one() -> None:
    torch.manual_seed(0)
    graph = loads(GRAPH)
    net = Network(graph, Fixed(graph, rule="full"))
    branches = [net.nodes[f"m2_{i}"] for i in range(1, BRANCHES + 1)]
    x = torch.randn(64, 8, 12, 12)
    residuals = torch.stack([branch.scale * branch.residual(F.relu(x)) for branch in branches])
    assert float(residuals.detach().mean(0).var()) == pytest.approx(1.0, rel=0.1)
