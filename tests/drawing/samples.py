"""Graphs to draw, and what is in a drawing."""

from __future__ import annotations

import base64
import io
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from topolearn.format import loads
from topolearn.graph import Graph, KeepEdges, Topology
from topolearn.graph.price import Alive

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"

Point = tuple[float, float]


def modules(branches: int, count: int = 3) -> Graph:
    """``count`` modules of ``branches`` each, as a ResNeXt has them: every branch reads the module before."""
    nodes = "".join(
        f"  m{i}_[1..{branches}]: {{op: resnext.branch, width: 2, out_channels: 8, aggregate: mean}}\n"
        for i in range(1, count + 1)
    )
    edges = "".join(
        f'  - {{connect: bipartite, from: "m{i}_[1..{branches}]", to: "m{i + 1}_[1..{branches}]", learnable: true}}\n'
        for i in range(1, count)
    )
    return loads(
        "topolearn: 1\nname: modules\ninputs: {image: [3, 8, 8]}\nnodes:\n"
        f"  stem: {{op: conv_bn_relu, out_channels: 8}}\n{nodes}"
        "  join: {op: relu, aggregate: mean}\n  head: {op: classifier, classes: 10}\n"
        f'edges:\n  - {{from: image, to: stem}}\n  - {{from: stem, to: "m1_[1..{branches}]"}}\n{edges}'
        f'  - {{from: "m{count}_[1..{branches}]", to: join}}\n  - {{from: join, to: head}}\noutputs: [head]\n'
    )


def stages(count: int = 3, nodes: int = 6) -> Graph:
    """``count`` complete stages in series: every node of a stage reads every earlier one of it."""
    lines, edges, before = [], [], "image"
    for i in range(1, count + 1):
        stem = "conv_bn" if i == 1 else "relu_conv_bn"
        lines.append(f"  s{i}_in: {{op: {stem}, out_channels: {8 * 2**i}, stride: {1 if i == 1 else 2}}}\n")
        lines.append(f"  s{i}_[1..{nodes}]: {{op: relu_sepconv_bn, out_channels: {8 * 2**i}, affine: false}}\n")
        lines.append(f"  s{i}_out: {{op: identity}}\n")
        edges.append(f"  - {{from: {before}, to: s{i}_in}}\n")
        edges.append(f'  - {{connect: complete, nodes: [s{i}_in, "s{i}_[1..{nodes}]", s{i}_out], learnable: true}}\n')
        before = f"s{i}_out"
    return loads(
        f"topolearn: 1\nname: stages\ninputs: {{image: [3, 32, 32]}}\nnodes:\n{''.join(lines)}"
        f"  head: {{op: classifier, classes: 10}}\nedges:\n{''.join(edges)}"
        f"  - {{from: {before}, to: head}}\noutputs: [head]\n"
    )


def values_of(graph: Graph) -> list[float]:
    """Values in [0, 1] of all edges, no two of one node the same."""
    values = [edge.weight for edge in graph.edges]
    for indices in graph.candidates.values():
        for place, index in enumerate(indices):
            values[index] = (3 * place + index) % len(indices) / len(indices)
    return values


def largest(graph: Graph, fan_in: int, values: list[float]) -> Topology:
    """The closed topology in which each node keeps its ``fan_in`` largest values."""
    keep = [not edge.learnable for edge in graph.edges]
    for indices in graph.candidates.values():
        for index in sorted(indices, key=lambda index: -values[index])[:fan_in]:
            keep[index] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Topology(tuple(keep), (1.0,) * len(keep)).close(graph)


def keep_largest(graph: Graph, fan_in: int, values: list[float]) -> Graph:
    """What is left of ``graph`` where each node keeps its ``fan_in`` largest values."""
    return KeepEdges(largest(graph, fan_in, values))(graph).verify()


def kept_largest(graph: Graph, fan_in: int, values: list[float]) -> list[bool]:
    """(E,) which edges that leaves."""
    left = set(Alive.of(graph, largest(graph, fan_in, values).keep).edges)
    return [i in left for i in range(len(graph.edges))]


class Drawing:
    """An SVG that was written."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.root = ElementTree.fromstring(self.text)
        self.groups = {group.get("id"): group for group in self.root.iter(f"{_SVG}g") if group.get("id")}

    def curves(self, group: str) -> list[list[Point]]:
        """The corners of every piece of a group's paths."""
        pieces = []
        for path in self.groups[group].iter(f"{_SVG}path"):
            for piece in path.get("d", "").split("M")[1:]:
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", piece)]
                pieces.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
        return pieces

    def marks(self, group: str) -> list[tuple[Point, str]]:
        """Place and style of every mark of a group."""
        return [
            ((float(use.get("x", "nan")), float(use.get("y", "nan"))), use.get("style", ""))
            for use in self.groups[group].iter(f"{_SVG}use")
        ]

    def cells(self, group: str) -> dict[tuple[int, int], np.ndarray]:
        """The (3,) colour in [0, 1] of each rectangle of a group, by row and column."""
        found: dict[Point, np.ndarray] = {}
        styles = [each.get("style", "") for each in self.groups[group].iter()]
        (first, *_) = [style for style in styles if "fill" in style]
        for path in self.groups[group].iter(f"{_SVG}path"):
            own = path.get("style", "")  # without a colour if there is one path only
            colour = re.search("fill: #([0-9a-f]{6})", own if "fill" in own else first)
            assert colour is not None
            for piece in path.get("d", "").split("M")[1:]:
                x, y = piece.split()[:2]
                found[float(x), float(y)] = np.array([int(colour[1][i : i + 2], 16) / 255 for i in (0, 2, 4)])
        columns, rows = (sorted({place[axis] for place in found}) for axis in (0, 1))
        return {(rows.index(y), columns.index(x)): colour for (x, y), colour in found.items()}

    def style(self, group: str) -> str:
        """Style of the one path of a group."""
        (path,) = self.groups[group].iter(f"{_SVG}path")
        return path.get("style", "")

    def words(self) -> list[str]:
        """All texts; they are outlines, each with what it says in a comment."""
        return [word.strip() for word in re.findall(r"<!--(.*?)-->", self.text)]

    def word(self, group: str) -> str:
        """The text of a group."""
        found = re.search(rf'<g id="{group}">\s*<!--(.*?)-->', self.text)
        assert found is not None
        return found[1].strip()

    def images(self) -> list[np.ndarray]:
        """Every image as (height, width, 3) in [0, 1]."""
        found = []
        for image in self.root.iter(f"{_SVG}image"):
            data = base64.b64decode(image.get(_LINK, "").partition(",")[2])
            found.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) / 255)
        return found


def with_an_added_node() -> tuple[Graph, Graph]:
    """A graph, and what pruning leaves of it, which has a node that was not there."""
    graph = loads(
        "topolearn: 1\nname: g\ninputs: {image: [3, 8, 8]}\nnodes:\n"
        "  a: {op: conv, out_channels: 2}\n  b: {op: conv, out_channels: 2, stride: 2}\n  c: {op: concat}\n"
        "edges:\n  - {from: image, to: [a, b], learnable: true}\n  - {from: b, to: c}\n"
        "  - {from: a, to: c, op: align}\noutputs: [c]\n"
    )
    keep = tuple(edge.dst != "b" for edge in graph.edges)
    small = KeepEdges(Topology(keep, (1.0,) * 4))(graph).verify()
    assert "a_to_c" in small.nodes
    return graph, small
