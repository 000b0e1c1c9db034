"""``topolearn lift``: a graph file, the weights beside it, and that the two can be trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import topolearn
from tests.lifting.networks import images, network, relative

Run = Callable[..., tuple[int, str, str]]


def test_it_writes_a_graph_and_its_weights(run: Run, tmp_path: Path) -> None:
    graph_file, weights = tmp_path / "net.yaml", tmp_path / "net.safetensors"
    status, out, err = run("lift", "resnet18", "-o", str(graph_file), "--size", "32", "--classes", "10")
    assert (status, err) == (0, "")
    assert out == (
        f"{graph_file}, {weights}: 11,181,642 parameters, 37,016,576 MACs, 24 nodes, 32 edges (6 learnable)\n"
        f"train it with: topolearn fit {graph_file} --weights {weights} --data DATA\n"
    )
    graph = topolearn.load_graph(graph_file)
    assert graph.input_size("image") == (3, 32, 32)
    net = topolearn.compile(graph)
    with safe_open(str(weights), "pt") as tensors:
        assert set(tensors.keys()) == set(net.state_dict())
    # The same once more, over what is there, as export does.
    assert run("lift", "resnet18", "-o", str(graph_file), "--size", "16,48", "--classes", "10")[0] == 0
    assert topolearn.load_graph(graph_file).input_size("image") == (3, 16, 48)


def test_the_two_files_are_the_network_and_can_be_fitted(run: Run, tmp_path: Path) -> None:
    model = network("resnet18", num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    graph_file, weights = tmp_path / "net.yaml", tmp_path / "net.safetensors"
    given = ["--weights", str(tmp_path / "theirs.pth"), "--size", "32"]
    assert run("lift", "resnet18", "-o", str(graph_file), *given)[0] == 0
    data = torch.utils.data.TensorDataset(images(8, 32), torch.arange(8) % 4)
    result = topolearn.fit(
        graph_file,
        "fixed",
        (data, data),
        rule="full",
        weights=weights,
        epochs=1,
        batch_size=8,
        lr=1e-12,
        device="cpu",
        training={"judge_given": False},  # its weights are random
        quiet=True,
    )
    parameters = dict(result.model.named_parameters())
    assert relative(parameters["nodes.layer3_0.layers.1.conv.weight"], model.layer3[0].conv2.weight) < 1e-6
    assert relative(parameters["nodes.fc.linear.weight"], model.fc.weight) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet51", "-o", "net.yaml"], "error: torchvision has no network 'resnet51'; did you mean 'resnet50'?\n"),
        (
            ["keras:vgg16", "-o", "net.yaml"],
            "error: there is no library 'keras'; write a name of torchvision's, or timm:vgg16\n",
        ),
        (["resnet18", "-o", "net.txt"], "error: -o net.txt: the graph goes into a YAML file, such as net.yaml\n"),
        (["resnet18", "-o", "net.safetensors"], "error: -o net.safetensors: the graph goes into a YAML file"),
        (["resnet18", "-o", "net.yaml", "--size", "a"], "error: --size a: write a number of pixels, or height and"),
        (["resnet18", "-o", "net.yaml", "--size", "1,2,3"], "error: --size 1,2,3: write a number of pixels"),
        (["resnet18", "-o", "net.yaml", "--size", "0"], "error: 'size' is (0, 0), but it should be"),
        (["resnet18", "-o", "net.yaml", "--weights", "no.pth"], "error: no.pth: no such file; name a .safetensors"),
        (["resnet18", "-o", "net.yaml", "--weights", "BEST"], "error: 'resnet18' has no weights 'BEST'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("lift", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    status, _, err = run("lift", "mobilenet_v2", "-o", str(tmp_path / "no" / "net.yaml"), "--size", "32")
    assert status == 2
    assert err.startswith(f"error: cannot write {tmp_path}/no/net.")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from topolearn.cli import main; sys.argv = ['topolearn', 'lift', '--help']\n"
        "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--weights" in done.stdout
    assert done.stdout.endswith("False\n")
