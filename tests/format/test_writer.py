"""The canonical form: what it looks like, and that it reads back equal."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

import topolearn
from tests.strategies import graphs
from topolearn.errors import TopolearnError
from topolearn.files import write_atomically
from topolearn.format import dump_graph, dumps, library, load_graph, loads
from topolearn.format.tree import parse
from topolearn.format.writer import scalar
from topolearn.graph import Edge, Graph, Node

PLAIN = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=12)


@given(graphs(max_inputs=2))
def test_every_graph_reads_back_equal(graph: Graph) -> None:
    text = dumps(graph)
    assert loads(text) == graph
    assert dumps(loads(text)) == text
    assert graph.to_yaml() == text


@pytest.mark.parametrize("name", library.names("graphs"))
def test_every_shipped_graph_reads_back_equal(name: str, tmp_path: Path) -> None:
    graph = load_graph(name)
    dump_graph(graph, tmp_path / "graph.yaml")
    assert load_graph(tmp_path / "graph.yaml") == graph


@given(st.text(max_size=20), st.sampled_from(["classification", "segmentation"]), st.none() | st.text(max_size=20))
def test_any_name_reads_back_equal(name: str, task: str, data: str | None) -> None:
    nodes = [Node("image", "input", {"size": (3, 8, 8)}), Node("out", "relu")]  # type: ignore[arg-type]
    graph = Graph(name, nodes, (Edge("image", "out"),), ("out",), task, data).declare_inputs()
    assert loads(dumps(graph)) == graph


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_weight_reads_back_equal(weight: float) -> None:
    nodes = [Node("image", "input", {"size": (3, 8, 8)}), Node("out", "relu")]  # type: ignore[arg-type]
    graph = Graph("g", nodes, (Edge("image", "out", weight=weight),), ("out",)).declare_inputs()
    read = loads(dumps(graph)).edges[0].weight
    assert (read, math.copysign(1, read)) == (weight, math.copysign(1, weight))


@pytest.mark.parametrize("name", ["null", "true", "y", "no", "on", "_", "inf", "nan", "from", "to"])
def test_ids_that_yaml_reads_as_something_else(name: str) -> None:
    nodes = [
        Node("image", "input", {"size": (3, 8, 8)}),  # type: ignore[arg-type]
        Node(name, "resnet.basic", {"channels": 3, "shortcut": "projection", "stride": 2}, share={"projection": name}),  # type: ignore[arg-type]
        Node("out", "relu"),
    ]
    edges = (Edge("image", name), Edge(name, "out", weight=0.5))
    graph = Graph("g", nodes, edges, ("out", name)).declare_inputs().verify()
    assert loads(dumps(graph)) == graph


@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)))
def test_any_value_reads_back(value: object) -> None:
    text = scalar(value)
    assert "\n" not in text
    assert parse(f"value: {text}\n", "f").root.plain() == {"value": value}


@given(graphs(max_inputs=2))
def test_other_yaml_readers_read_it_too(graph: Graph) -> None:
    document = YAML(typ="safe", pure=True).load(dumps(graph))
    assert list(document) == ["topolearn", "name", "task", "inputs", "nodes", "edges", "outputs"]
    assert list(document["nodes"]) == [name for name in graph.nodes if name not in graph.inputs]
    assert sum(len(sources) for entry in document["edges"] for sources in entry["into"].values()) == len(graph.edges)


def test_the_form_is_short_and_readable() -> None:
    graph = loads(
        """
topolearn: 1
name: small
data: digits
inputs: {image: [1, 8, 8]}
nodes:
  a[1..2]: {op: conv_bn_relu, out_channels: 4}
  b: {op: concat}
  c: {op: relu, aggregate: mean}
  head: {op: classifier, classes: 10}
edges:
  - {from: image, to: "a[1..2]"}
  - {from: ["a[1..2]", image], to: b}
  - {from: "a[1..2]", to: c, op: align, learnable: true, weight: 0.5}
  - {from: b, to: c, op: project}
  - {from: c, to: head}
outputs: [head]
"""
    )
    assert dumps(graph) == (
        """\
topolearn: 1
name: small
task: classification
data: digits
inputs: {image: [1, 8, 8]}
nodes:
  a1: {op: conv_bn_relu, out_channels: 4, input: {channels: 1, stride: 1}}
  a2: {op: conv_bn_relu, out_channels: 4, input: {channels: 1, stride: 1}}
  b: {op: concat, input: {channels: 9, stride: 1}}
  c: {op: relu, aggregate: mean, input: {channels: 9, stride: 1}}
  head: {op: classifier, classes: 10, input: {channels: 9, stride: 1}}
edges:
  - into:
      a1: [image]
      a2: [image]
      b: [image, a1, a2]
      head: [c]
  - op: align
    learnable: true
    into:
      c: [a1: 0.5, a2: 0.5]
  - op: project
    into:
      c: [b]
outputs: [head]
"""
    )


class TestFiles:
    def test_a_file_appears_whole_and_alone(self, tmp_path: Path) -> None:
        graph = load_graph("resnet38-cifar100")
        path = tmp_path / "graph.yaml"
        path.write_text("old")
        topolearn.dump_graph(graph, path)
        assert path.read_text() == dumps(graph)
        assert os.listdir(tmp_path) == ["graph.yaml"]
        assert path.stat().st_mode & 0o777 == 0o644

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "graph.yaml"
        path.write_text("old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            TopolearnError, match=r"cannot write .*graph\.yaml: No space left on device; choose another"
        ):
            write_atomically(path, b"new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["graph.yaml"]

    def test_a_folder_that_is_missing_or_in_the_way(self, tmp_path: Path) -> None:
        with pytest.raises(TopolearnError, match="No such file or directory; choose another place"):
            write_atomically(tmp_path / "nowhere" / "graph.yaml", b"new")
        (tmp_path / "graph.yaml").mkdir()
        with pytest.raises(TopolearnError, match="Is a directory"):
            write_atomically(tmp_path / "graph.yaml", b"new")
        assert os.listdir(tmp_path) == ["graph.yaml"]

    def test_a_link_stays_a_link_and_a_pipe_a_pipe(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link.yaml").symlink_to(tmp_path / "real" / "graph.yaml")
        write_atomically(tmp_path / "link.yaml", b"new")
        assert (tmp_path / "link.yaml").is_symlink()
        assert (tmp_path / "real" / "graph.yaml").read_bytes() == b"new"
        read, write = os.pipe()
        try:
            write_atomically(Path(f"/dev/fd/{write}"), b"new")
            assert os.read(read, 10) == b"new"
        finally:
            os.close(read)
            os.close(write)
