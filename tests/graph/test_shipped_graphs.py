"""The graphs of the papers' networks: counts to the unit, wiring, CIFAR-10 forms, and what is wrong before training."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

import topolearn
from topolearn.format import library
from topolearn.graph import BindFanIn, Graph
from topolearn.ops import Shape
from topolearn.runs.config import read_config

ROOT = Path(__file__).resolve().parents[2]

PARAMS = {
    # Computed in the specification from the papers' figures, but for resnet20 (by hand below).
    "resnet20-cifar100": 275_572,
    "resnet38-cifar100": 567_220,
    "resnet38-preact-cifar100": 567_236,  # by hand below, too
    "resnet74-cifar100": 1_150_516,
    "resnet110-cifar100": 1_733_812,
    "resnext20-4x8-cifar100": 285_348,
    "resnext29-8x8-cifar100": 861_604,
    "resnext29-64x8-cifar100": 34_594_212,
    "resnet50-imagenet": 25_557_032,
    "resnext50-4x32-imagenet": 25_965_352,
    "resnext101-4x32-imagenet": 46_193_448,
    "resnext101-4x64-imagenet": 87_551_784,
}

RESNETS = {"resnet20-cifar100": 3, "resnet38-cifar100": 6, "resnet74-cifar100": 12, "resnet110-cifar100": 18}
"""Blocks per stage."""

RESNEXTS = {
    "resnext20-4x8-cifar100": (20, 4, 8, (64, 128, 256), (2, 2, 2)),
    "resnext29-8x8-cifar100": (29, 8, 8, (64, 128, 256), (3, 3, 3)),
    "resnext29-64x8-cifar100": (29, 64, 8, (256, 512, 1024), (3, 3, 3)),
    "resnext50-4x32-imagenet": (50, 4, 32, (256, 512, 1024, 2048), (3, 4, 6, 3)),
    "resnext101-4x32-imagenet": (101, 4, 32, (256, 512, 1024, 2048), (3, 4, 23, 3)),
    "resnext101-4x64-imagenet": (101, 4, 64, (256, 512, 1024, 2048), (3, 4, 23, 3)),
}
"""Depth, bottleneck width, cardinality, output channels and modules per stage."""

CIFAR = [name for name in PARAMS if name.endswith("cifar100")]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_data_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder to be in, and no folder of data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOPOLEARN_DATA", raising=False)


def write_cifar10(folder: Path) -> None:
    """CIFAR-10 in its own format: ten classes, fifty training images and ten to validate on."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    content = {b"data": pixels, b"labels": list(range(10))}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))
    names = [f"class {number}".encode() for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=4))


class TestCounts:
    @pytest.mark.parametrize("name", PARAMS)
    def test_show_gives_the_parameters_of_the_specification(self, run: Run, name: str) -> None:
        status, out, err = run("show", name, "--json")
        assert (status, err) == (0, "")
        assert (json.loads(out)["name"], json.loads(out)["params"]) == (name, PARAMS[name])

    @pytest.mark.parametrize("name", CIFAR)
    def test_a_built_network_has_them(self, name: str) -> None:
        net = topolearn.compile(topolearn.load_graph(name))
        assert sum(p.numel() for p in net.parameters()) == PARAMS[name]

    @pytest.mark.parametrize(("name", "blocks"), RESNETS.items())
    def test_resnets_for_cifar_by_hand(self, name: str, blocks: int) -> None:
        def stage(channels: int, before: int) -> int:
            """3x3 convolutions, each with scale and shift per channel; the first from ``before`` channels."""
            return 9 * before * channels + (2 * blocks - 1) * 9 * channels**2 + 2 * blocks * 2 * channels

        graph, count = topolearn.load_graph(name), 3 * blocks
        stem, head = 9 * 3 * 16 + 2 * 16, 64 * 100 + 100
        assert graph.cost.params == stem + stage(16, 16) + stage(32, 16) + stage(64, 32) + head
        assert int(name.split("-")[0].removeprefix("resnet")) == 2 + 2 * count
        assert len(graph.nodes) == count + len(("image", "stem", "head"))
        assert sum(edge.learnable for edge in graph.edges) == count * (count - 1) // 2
        assert len(graph.edges) == count * (count - 1) // 2 + 3

    def test_the_preact_resnet_by_hand(self) -> None:
        graph = topolearn.load_graph("resnet38-preact-cifar100")
        params, before = 9 * 3 * 16 + 16, 16  # the stem has a bias
        for channels in (16, 32, 64):
            for _ in range(6):
                params += 9 * before * channels + 9 * channels**2 + 2 * before + 2 * channels
                before = channels
        assert graph.cost.params == params + 2 * 64 + 64 * 100 + 100
        assert len(graph.nodes) == 18 + len(("image", "stem", "norm", "head"))
        assert sum(edge.learnable for edge in graph.edges) == 20 * 19 // 2

    @pytest.mark.parametrize(("name", "spec"), RESNEXTS.items())
    def test_resnexts_by_hand(self, name: str, spec: tuple[int, int, int, tuple[int, ...], tuple[int, ...]]) -> None:
        depth, width, cardinality, channels, modules = spec
        graph, count = topolearn.load_graph(name), sum(modules)
        cifar = name.endswith("cifar100")
        params = 9 * 3 * 64 + 2 * 64 if cifar else 49 * 3 * 64 + 2 * 64
        before = 64
        for stage, (out, repeats) in enumerate(zip(channels, modules, strict=True)):
            w = width * 2**stage
            if stage or before != out:
                params += before * out + 2 * out  # one projection for all branches of the module
            for _ in range(repeats):
                params += cardinality * (before * w + 2 * w + 9 * w * w + 2 * w + w * out + 2 * out)
                before = out
        classes = 100 if cifar else 1000
        assert graph.cost.params == params + before * classes + classes
        assert depth == 2 + 3 * count
        ends = ["image", "stem", "join", "head"] if cifar else ["image", "stem", "pool", "join", "head"]
        assert len(graph.nodes) == count * cardinality + len(ends)
        learnable = (count - 1) * cardinality**2
        assert sum(edge.learnable for edge in graph.edges) == learnable
        assert len(graph.edges) == learnable + 2 * cardinality + len(ends) - 2

    def test_resnet50_by_hand_and_against_torchvision(self) -> None:
        graph, known = topolearn.load_graph("resnet50-imagenet"), models.ResNet50_Weights.IMAGENET1K_V1.meta
        assert graph.cost.params == known["num_params"]
        assert round(graph.cost.macs / 1e9, 3) == known["_ops"] == 4.089
        assert len(graph.nodes) == 16 + len(("image", "stem", "pool", "head"))
        assert sum(edge.learnable for edge in graph.edges) == 16 * 15 // 2
        assert len(graph.edges) == 16 * 15 // 2 + 4

    @pytest.mark.parametrize(
        ("name", "weights"),
        [
            ("resnext50-4x32-imagenet", models.ResNeXt50_32X4D_Weights.IMAGENET1K_V1),
            ("resnext101-4x64-imagenet", models.ResNeXt101_64X4D_Weights.IMAGENET1K_V1),
        ],
    )
    def test_resnexts_are_torchvisions_but_for_what_branches_do_apart(
        self, name: str, weights: models.WeightsEnum
    ) -> None:
        """Every branch has a last batch normalisation of its own, and projects an input of its own."""
        graph, (_, _, cardinality, channels, modules) = topolearn.load_graph(name), RESNEXTS[name]
        norms = 2 * sum(out * repeats for out, repeats in zip(channels, modules, strict=True))
        assert graph.cost.params == weights.meta["num_params"] + (cardinality - 1) * norms
        sides, before = (56, 28, 14, 7), (64, *channels)
        projections = sum(a * b * side**2 for a, b, side in zip(before, channels, sides, strict=False))
        assert round((graph.cost.macs - (cardinality - 1) * projections) / 1e9, 2) == round(weights.meta["_ops"], 2)

    def test_the_docs_list_them_all_with_their_counts(self) -> None:
        text = (ROOT / "docs" / "graphs.md").read_text(encoding="utf-8")
        for name in library.names("graphs"):
            graph = topolearn.load_graph(name)
            learnable = sum(edge.learnable for edge in graph.edges)
            assert f"| `{name}` | {len(graph.nodes):,} | {learnable:,} | {graph.cost.params:,} |" in text


class TestWiring:
    @pytest.mark.parametrize("name", [*RESNETS, "resnet50-imagenet"])
    def test_every_earlier_block_is_a_candidate(self, name: str) -> None:
        graph = topolearn.load_graph(name)
        blocks = [node.id for node in graph.nodes.values() if node.op.startswith("resnet.")]
        assert blocks == [f"block{number}" for number in range(1, len(blocks) + 1)]
        assert set(graph.candidates) == set(blocks[1:])
        for number, block in enumerate(blocks[1:], start=1):
            assert [graph.edges[i].src for i in graph.candidates[block]] == blocks[:number]
            assert {graph.edges[i].op for i in graph.candidates[block]} == {"align"}
            # Candidates arrive in the shape of the block before.
            assert graph.nodes[block].input == graph.shapes[blocks[number - 1]]
            assert graph.nodes[block].aggregate == "mean"
        assert [graph.edges[i].src for i in graph.in_edges("head")] == blocks[-1:]
        assert [edge.dst for edge in graph.edges if edge.src in ("stem", "pool")][-1] == blocks[0]

    def test_the_preact_resnet_starts_as_a_chain_across_its_stages(self) -> None:
        graph = topolearn.load_graph("resnet38-preact-cifar100")
        order = ["stem", *(f"block{number}" for number in range(1, 19)), "norm"]
        assert list(graph.candidates) == order[1:]
        for place, node in enumerate(order[1:], start=1):
            edges = [graph.edges[i] for i in graph.candidates[node]]
            assert [(edge.src, edge.op) for edge in edges] == [(source, "align") for source in order[:place]]
            assert [edge.weight for edge in edges] == [0.0] * (place - 1) + [1.0]
            assert graph.nodes[node].aggregate == "sum"
            assert graph.nodes[node].input == graph.shapes[order[place - 1]]

    @pytest.mark.parametrize(("name", "spec"), RESNEXTS.items())
    def test_the_candidates_of_a_branch_are_the_branches_of_the_module_before(
        self, name: str, spec: tuple[int, int, int, tuple[int, ...], tuple[int, ...]]
    ) -> None:
        _, width, cardinality, channels, modules = spec
        graph, cifar = topolearn.load_graph(name), name.endswith("cifar100")
        stage_of = [stage for stage, repeats in enumerate(modules) for _ in range(repeats)]
        previous, shape = ["stem" if cifar else "pool"], Shape(64, 1 if cifar else 4)
        for module, stage in enumerate(stage_of, start=1):
            opens = module == 1 or stage_of[module - 2] != stage
            branches = [f"m{module}_{number}" for number in range(1, cardinality + 1)]
            for branch in branches:
                node = graph.nodes[branch]
                assert [graph.edges[i].src for i in graph.in_edges(branch)] == previous
                assert all(graph.edges[i].learnable == (module > 1) for i in graph.in_edges(branch))
                assert (node.op, node.aggregate, node.input) == ("resnext.branch", "mean", shape)
                expected = {"width": width * 2**stage, "out_channels": channels[stage], "residual_scale": "fan_in"}
                assert node.params == expected | ({"stride": 2} if opens and stage else {})
                projected = opens and (stage > 0 or channels[0] != 64)
                assert node.share == ({"projection": f"stage{stage + 1}"} if projected else {})
            previous, shape = branches, graph.shapes[branches[0]]  # type: ignore[assignment]
        join = graph.nodes["join"]
        assert [graph.edges[i].src for i in graph.in_edges("join")] == previous
        assert not any(graph.edges[i].learnable for i in graph.in_edges("join"))
        assert (join.op, join.aggregate) == ("identity", "mean")
        assert graph.nodes["head"].params["activation"] == "relu"
        assert shape.size(graph.image) == ((8, 8) if cifar else (7, 7))

    def test_the_residual_scale_follows_the_fan_in(self) -> None:
        def scales(graph: Graph) -> set[object]:
            return {n.params["residual_scale"] for n in graph.nodes.values() if n.op == "resnext.branch"}

        graph = topolearn.load_graph("resnext29-8x8-cifar100")
        assert scales(BindFanIn(4)(graph)) == {4.0}
        assert scales(BindFanIn()(graph)) == scales(BindFanIn(9)(graph)) == {8.0}

    @pytest.mark.parametrize("name", ["resnet38-cifar100", "resnext29-8x8-cifar100"])
    def test_fixed_prev_is_the_ordinary_network(self, name: str) -> None:
        graph = topolearn.load_graph(name)
        topology = topolearn.learners.Fixed(graph, rule="prev").topology()
        kept = [edge for edge, keep in zip(graph.edges, topology.keep, strict=True) if keep and edge.learnable]
        assert kept
        for edge in kept:
            (source, *branch), (target, *own) = edge.src.split("_"), edge.dst.split("_")
            assert branch == own
            assert int(target.lstrip("blockm")) == int(source.lstrip("blockm")) + 1

    def test_resnet50_with_its_previous_blocks_computes_what_torchvisions_does(self) -> None:
        torch.manual_seed(0)
        graph = topolearn.load_graph("resnet50-imagenet")
        net, known = topolearn.compile(graph).eval(), models.resnet50().eval()
        ours, theirs = net.state_dict(), known.state_dict()
        assert [tuple(t.shape) for t in ours.values()] == [tuple(t.shape) for t in theirs.values()]
        net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
        net.set_edge_weights(torch.tensor(topolearn.learners.Fixed(graph, rule="prev").topology().edge_weights()))
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(net(x), known(x), rtol=1e-4, atol=1e-4)


class TestCifar10:
    @pytest.mark.parametrize("name", CIFAR)
    def test_by_set(self, run: Run, name: str) -> None:
        form = name.replace("cifar100", "cifar10")
        settings = ("nodes.head.classes=10", "data=cifar10", f"name={form}")
        status, out, err = run("show", name, "--json", *(word for text in settings for word in ("--set", text)))
        assert (status, err) == (0, "")
        features = 1024 if "64x8" in name else 256 if "resnext" in name else 64
        found = json.loads(out)
        assert (found["name"], found["data"]) == (form, "cifar10")
        assert found["params"] == PARAMS[name] - 90 * (features + 1)

    def test_fit_takes_the_same(self, run: Run, tmp_path: Path) -> None:
        write_cifar10(tmp_path / "data" / "cifar-10-batches-py")
        settings = ("nodes.head.classes=10", "data=cifar10", "name=resnet20-cifar10", "fan_in=4")
        words = [word for text in settings for word in ("--set", text)]
        status, _, err = run(
            *("fit", "resnet20-cifar100", *words, "--epochs", "3", "--batch-size", "10"),
            *("--set", "train_images=10", "--no-export", "--quiet"),
        )
        assert (status, err) == (0, "")
        folder = tmp_path / "runs" / "resnet20-cifar10-maskconnect"
        assert topolearn.load_graph(folder / "search.yaml").name == "resnet20-cifar10"
        assert topolearn.load_graph(folder / "graph.yaml").nodes["head"].params["classes"] == 10
        assert read_config(folder / "config.yaml")["data"] == "cifar10"


class TestBadInput:
    """Exit status 2, one line that says the place, nothing on stdout, nothing written."""

    @staticmethod
    def refused(run: Run, *arguments: str) -> str:
        before = sorted(Path().rglob("*"))
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        return err.removeprefix("error: ").strip()

    @pytest.mark.parametrize(("name", "largest"), [("resnet38-cifar100", 17), ("resnext29-8x8-cifar100", 8)])
    @pytest.mark.parametrize("learner", [("maskconnect",), ("fixed", "--set", "rule=random")])
    def test_a_fan_in_larger_than_every_candidate_set(
        self, run: Run, name: str, largest: int, learner: tuple[str, ...]
    ) -> None:
        message = self.refused(run, "fit", name, "--learner", *learner, "--set", f"fan_in={largest + 1}")
        assert message == (
            f"fan_in {largest + 1} is larger than every candidate set of graph '{name}'; use at most {largest}"
        )
        with pytest.raises(topolearn.TopolearnError, match=f"fan_in {largest + 1} is larger than every candidate set"):
            topolearn.fit(name, learner[0], fan_in=largest + 1, **({"rule": "random"} if learner[1:] else {}))

    @pytest.mark.parametrize("way", [("--data", "cifar10"), ("--set", "data=cifar10")])
    @pytest.mark.parametrize("name", ["resnet38-cifar100", "resnext29-8x8-cifar100"])
    def test_data_without_the_classes_of_the_head(
        self, run: Run, tmp_path: Path, name: str, way: tuple[str, str]
    ) -> None:
        write_cifar10(tmp_path / "data" / "cifar-10-batches-py")
        assert self.refused(run, "fit", name, *way) == (
            f"data 'cifar10' has 10 classes, but output 'head' of graph '{name}' has 100;"
            " set 'nodes.head.classes' to 10"
        )

    @pytest.mark.parametrize("name", ["resnet38-cifar100", "resnext29-8x8-cifar100", "resnet50-imagenet"])
    def test_data_of_another_size(self, run: Run, name: str) -> None:
        message = self.refused(run, "fit", name, "--data", "digits")
        assert message.startswith("data 'digits' has 1 channel, but input 'image' of graph ")
        assert message.endswith(f"'{name}' takes 3; use images with 3, or change 'inputs' in the graph")

    def test_data_that_are_not_there(self, run: Run) -> None:
        message = self.refused(run, "fit", "resnext50-4x32-imagenet")
        assert message.startswith("there is no data set 'imagenet', and no such folder in ")

    @pytest.mark.parametrize("command", ["show", "fit"])
    @pytest.mark.parametrize(
        ("name", "setting", "message"),
        [
            (
                "resnet38-cifar100",
                "nodes.block[7..12].stride=[2, 1]",
                "'stride' lists 2 values for 6 nodes; give one for each, or one for all",
            ),
            (
                "resnext29-8x8-cifar100",
                "nodes.m4_[1..8].width=[16, 16]",
                "'width' lists 2 values for 8 nodes; give one for each, or one for all",
            ),
            (
                "resnext29-8x8-cifar100",
                "nodes.m4_[1..8].residual_scale=fanin",
                "'residual_scale' of op 'resnext.branch' is 'fanin', but it must be a positive number or 'fan_in'",
            ),
            (
                "resnext29-8x8-cifar100",
                "nodes.head.clases=10",
                "unknown key 'clases' of node 'head'; did you mean 'classes'?",
            ),
        ],
    )
    def test_a_setting_that_does_not_fit(self, run: Run, command: str, name: str, setting: str, message: str) -> None:
        assert self.refused(run, command, name, "--set", setting) == f"--set {setting}: {message}"

    @pytest.mark.parametrize("command", ["validate", "fit"])
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("width: 8, learn", "width: 7, learn", "24:55: 'width' of pattern 'layers' is 7, but it must divide the 7"),
            ("[1..9]_[1..8]", "[1..9]_[1..9]", "24:55: 'width' of pattern 'layers' is 8, but it must divide the 8"),
            ("[1..9]_[1..8]", "[1..8]_[1..8]", "18:3: node 'm9_1' has no in-edge; connect it or remove it"),
            ("  m4_[1..8]", "  m4_[1..6]", "24:5: edge m3_1 -> m4_7: unknown node 'm4_7'; did you mean"),
            (
                "width: 16, out_channels: 128, residual",
                "width: 16, out_channels: [128, 128, 128, 128], residual",
                "15:65: 'out_channels' lists 4 values for 16 nodes; give one for each, or one for all",
            ),
            (  # one branch of other channels than its siblings
                "width: 16, out_channels: 128, stride",
                "width: 16, out_channels: [96, 128, 128, 128, 128, 128, 128, 128], stride",
                "24:5: edge m4_1 -> m5_1: the source gives 96 channels at stride 2, but the target takes 128",
            ),
        ],
    )
    def test_a_cardinality_that_does_not_fit(
        self, run: Run, tmp_path: Path, command: str, old: str, new: str, message: str
    ) -> None:
        text = (ROOT / "graphs" / "resnext29-8x8-cifar100.yaml").read_text(encoding="utf-8")
        assert text.count(old) == 1
        (tmp_path / "mine.yaml").write_text(text.replace(old, new), encoding="utf-8")
        assert self.refused(run, command, "mine.yaml").startswith(f"mine.yaml:{message}")
