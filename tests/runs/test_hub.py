"""Trained networks on the Hugging Face Hub: what goes up and comes down are the files of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from topolearn.compiler import Network
from topolearn.compiler.network import unwrapped
from topolearn.errors import CheckpointError, OptionError
from topolearn.format import loads
from topolearn.runs import hub

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

TEXT = """
topolearn: 1
name: tiny
inputs: {image: [3, 8, 8]}
nodes:
  a[1..3]: {op: conv_bn_relu, out_channels: 4}
  head: {op: classifier, classes: 2}
edges:
  - {connect: chain, nodes: [image, "a[1..3]", head]}
  - {from: a1, to: a3, learnable: true}
outputs: [head]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 2)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    topolearn.fit(loads(TEXT), "continuous", (data, data), epochs=2, batch_size=4, device="cpu", out=folder, quiet=True)
    return folder


def test_a_runs_folder_is_a_pretrained_model(run: Path, tmp_path: Path) -> None:
    model = topolearn.HubModel.from_pretrained(run)
    net = topolearn.load_model(run)
    x = torch.randn(2, 3, 8, 8)
    assert not model.training
    assert torch.equal(model(x), net(x))
    assert isinstance(unwrapped(model), Network)
    model.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "README.md", "config.yaml", "graph.yaml", "weights.safetensors"
    ]  # fmt: skip
    for name in ("config.yaml", "graph.yaml", "weights.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (run / name).read_bytes()
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "library_name: topolearn" in card
    assert 'topolearn.HubModel.from_pretrained("USER/NAME")' in card
    again = topolearn.HubModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(x), net(x))
    assert unwrapped(again).about == net.about


def test_a_network_without_a_run(tmp_path: Path) -> None:
    net = topolearn.compile(loads(TEXT)).eval()
    net.set_edge_weights([0.25 if edge.learnable else edge.weight for edge in net.graph.edges])
    topolearn.HubModel(net).save_pretrained(tmp_path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(topolearn.HubModel.from_pretrained(tmp_path)(x), net(x))
    assert not (tmp_path / "config.yaml").exists()


def test_push_and_pull_move_these_files_only(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"

    class Api:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
            shutil.copytree(folder_path, store / repo_id)
            return f"https://huggingface.co/{repo_id}"

    asked = []

    def download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append((name, allow_patterns, options))
        return str(store / name)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    model = topolearn.HubModel.from_pretrained(run)
    model.push_to_hub("me/tiny", model_card_kwargs={"name": "tiny", "repo_id": "me/tiny"})
    assert sorted(path.name for path in (store / "me" / "tiny").iterdir()) == [
        "README.md", "config.yaml", "graph.yaml", "weights.safetensors"
    ]  # fmt: skip
    assert 'from_pretrained("me/tiny")' in (store / "me" / "tiny" / "README.md").read_text()
    pulled = topolearn.HubModel.from_pretrained("me/tiny", revision="main")
    assert asked == [("me/tiny", ["graph.yaml", "weights.safetensors", "config.yaml"], {"revision": "main"})]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(pulled(x), model(x))


def test_a_network_of_your_own_class_is_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1), torch.nn.Flatten())
    lifted = topolearn.lift(net, size=8).eval()
    topolearn.HubModel(lifted).save_pretrained(tmp_path)
    model = topolearn.HubModel.from_pretrained(tmp_path, sources={"net": net})
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), lifted(x))


def test_what_cannot_be_had_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network in a test\nreally")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"'me/none' is no folder, and cannot be downloaded .*: no network in a"):
        topolearn.HubModel.from_pretrained("me/none")
    with pytest.raises(CheckpointError, match="holds no run"):
        topolearn.HubModel.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match="HubModel takes a network over a graph"):
        topolearn.HubModel(torch.nn.Linear(2, 2))
    graph = loads(TEXT)
    with pytest.raises(OptionError, match="still being searched"):
        topolearn.HubModel(topolearn.compile(graph, topolearn.learners.Continuous(graph)))
    monkeypatch.setattr(hub, "IS_INSTALLED", False)
    with pytest.raises(OptionError, match="huggingface_hub is not installed; run: pip install 'topolearn-torch"):
        topolearn.HubModel.from_pretrained(tmp_path)
    with pytest.raises(OptionError, match="huggingface_hub is not installed"):
        topolearn.HubModel(topolearn.compile(graph))
