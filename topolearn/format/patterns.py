"""The ``connect`` patterns of graph files: each generates edges between listed nodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Ends = tuple[str, str]


class Pattern(BaseModel):
    """A rule that generates edges; ``pairs`` gives them as (source, target)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    pattern_name: ClassVar[str]

    @classmethod
    def keys(cls) -> dict[str, bool]:
        """Return the pattern's keys in a file -> whether the value lists ids."""
        fields = cls.model_fields.items()
        return {field.alias or name: field.annotation == tuple[str, ...] for name, field in fields}

    @property
    def sized(self) -> tuple[str, ...]:
        """Ids of nodes that must declare an ``input``, because the default does not fit."""
        return ()

    @abstractmethod
    def pairs(self) -> Iterator[Ends]:
        """Yield the edges."""

    @property
    @abstractmethod
    def count(self) -> int:
        """An upper bound on the number of edges."""


class OverNodes(Pattern):
    """A pattern over one ordered list of nodes."""

    nodes: Annotated[tuple[str, ...], Field(min_length=2)]
    """The ids, in order."""

    @property
    def count(self) -> int:
        """The number of pairs, n (n - 1) / 2."""
        return len(self.nodes) * (len(self.nodes) - 1) // 2


class Chain(OverNodes):
    """Connects every node to the next one."""

    pattern_name = "chain"

    def pairs(self) -> Iterator[Ends]:
        """Yield n - 1 edges."""
        return zip(self.nodes, self.nodes[1:], strict=False)

    @property
    def count(self) -> int:
        """The number of edges, n - 1."""
        return len(self.nodes) - 1


class Complete(OverNodes):
    """Connects every node to every later one."""

    pattern_name = "complete"

    def pairs(self) -> Iterator[Ends]:
        """Yield n (n - 1) / 2 edges."""
        return ((src, dst) for j, dst in enumerate(self.nodes) for src in self.nodes[:j])


class Bipartite(Pattern):
    """Connects every node of ``from`` to every node of ``to``."""

    pattern_name = "bipartite"

    sources: Annotated[tuple[str, ...], Field(min_length=1, alias="from")]
    """Where edges start."""
    targets: Annotated[tuple[str, ...], Field(min_length=1, alias="to")]
    """Where edges end."""

    def pairs(self) -> Iterator[Ends]:
        """Yield len(from) * len(to) edges."""
        return ((src, dst) for dst in self.targets for src in self.sources)

    @property
    def count(self) -> int:
        """The number of edges, len(from) * len(to)."""
        return len(self.sources) * len(self.targets)


class Layers(OverNodes):
    """Connects every node of a layer to every node of the next layer.

    The nodes are divided into layers in their order: ``nodes: "m[1..9]_[1..8]", width: 8`` makes nine layers, the
    first with m1_1 to m1_8. This is ``bipartite`` between each layer and the next: n layers make (n - 1) * width²
    edges.
    """

    pattern_name = "layers"

    width: Annotated[int, Field(gt=0)]
    """Nodes per layer."""

    @field_validator("width")
    @classmethod
    def _whole_layers(cls, width: int, given: ValidationInfo) -> int:
        nodes = len(given.data.get("nodes", ()))  # missing if they are invalid themselves
        if nodes % width:
            raise ValueError(f"must divide the {nodes:,} nodes into whole layers")
        if nodes == width:
            raise ValueError(f"must be less than the {nodes:,} nodes, which make one layer of that width")
        return width

    def pairs(self) -> Iterator[Ends]:
        """Yield the edges, by target."""
        for start in range(self.width, len(self.nodes), self.width):
            before = self.nodes[start - self.width : start]
            for dst in self.nodes[start : start + self.width]:
                for src in before:
                    yield src, dst

    @property
    def count(self) -> int:
        """The number of edges, (n - 1) * width² for n layers."""
        return (len(self.nodes) - self.width) * self.width


class Residual(OverNodes):
    """Connects a residual network: a chain with shortcuts over every ``interval`` nodes.

    Nodes count from 0, and node 0 is the stage's input. If i - 1 is divisible by ``interval``, node i begins a block
    and reads every earlier node with a number that is a multiple of ``interval``. Other nodes read the node before
    them. Interval 1 is the complete graph. K blocks of l nodes between input and output make
    (K + 1)(K + 2) / 2 + K (l - 1) edges.
    """

    pattern_name = "residual"

    interval: Annotated[int, Field(gt=0)]
    """Nodes per block."""

    def pairs(self) -> Iterator[Ends]:
        """Yield the edges, by target."""
        for j in range(1, len(self.nodes)):
            sources = range(0, j, self.interval) if (j - 1) % self.interval == 0 else (j - 1,)
            for i in sources:
                yield self.nodes[i], self.nodes[j]


class Random(OverNodes):
    """Connects the nodes between the first and the last as a random graph; each edge points to the later node.

    A node without an in-edge reads the first node (the stage's input). A node without an out-edge feeds the last node
    (the stage's output).
    """

    pattern_name = "random"

    model: Literal["er", "ws", "ba"]
    """``er`` is Erdős–Rényi, ``ws`` Watts–Strogatz, ``ba`` Barabási–Albert."""
    seed: int = 0
    """Seed of the random generator."""
    p: Annotated[float, Field(ge=0, le=1)] | None = None
    """For ``er``: probability of an edge. For ``ws``: probability that an edge is rewired."""
    k: Annotated[int, Field(gt=0)] | None = None
    """For ``ws``: neighbours of each node."""
    m: Annotated[int, Field(gt=0)] | None = None
    """For ``ba``: edges of each new node."""

    @model_validator(mode="after")
    def _needs(self) -> Random:
        needed = {"er": ("p",), "ws": ("k", "p"), "ba": ("m",)}[self.model]
        for name in ("p", "k", "m"):
            if name in needed and getattr(self, name) is None:
                raise ValueError(f"model '{self.model}' needs '{name}'")
            if name not in needed and getattr(self, name) is not None:
                raise ValueError(f"model '{self.model}' takes no '{name}'")
        inner = len(self.nodes) - 2
        if inner < 1:
            raise ValueError("needs at least three nodes: input, one between, output")
        if self.m is not None and self.m >= inner:
            raise ValueError(f"m must be less than the {inner} nodes between input and output")
        if self.k is not None and self.k > inner:
            raise ValueError(f"k must be at most the {inner} nodes between input and output")
        return self

    def pairs(self) -> Iterator[Ends]:
        """Yield the edges, by source."""
        import networkx as nx

        inner = self.nodes[1:-1]
        graph: nx.Graph[int]
        if self.model == "er":
            assert self.p is not None
            graph = nx.erdos_renyi_graph(len(inner), self.p, seed=self.seed)
        elif self.model == "ws":
            assert self.k is not None
            assert self.p is not None
            graph = nx.watts_strogatz_graph(len(inner), self.k, self.p, seed=self.seed)
        else:
            assert self.m is not None
            graph = nx.barabasi_albert_graph(len(inner), self.m, seed=self.seed)
        edges = sorted((min(a, b), max(a, b)) for a, b in graph.edges)
        sources, targets = {a for a, _ in edges}, {b for _, b in edges}
        for i, node in enumerate(inner):
            if i not in targets:
                yield self.nodes[0], node
        for a, b in edges:
            yield inner[a], inner[b]
        for i, node in enumerate(inner):
            if i not in sources:
                yield node, self.nodes[-1]


class FullyDenseDecoder(Pattern):
    """Connects a decoder in which every stage reads all nodes at least as deep (SparseMask, Wu et al. 2019).

    With features E_1 … E_L of an encoder, stages D_1 … D_L (1 has the highest resolution) and a global feature G,
    D_l reads E_i for i >= l, D_i for i > l, and G. That makes 2 (L - l + 1) edges into D_l, L (L + 1) in all. The
    node of each stage declares its channels and stride as ``input``.
    """

    pattern_name = "fully_dense_decoder"

    features: Annotated[tuple[str, ...], Field(min_length=1)]
    """The encoder's features E_l, highest resolution first."""
    pooled: Annotated[tuple[str, ...], Field(min_length=1, max_length=1, alias="global")]
    """The global feature G."""
    stages: Annotated[tuple[str, ...], Field(min_length=1)]
    """The decoder's stages D_l, highest resolution first, as many as features."""

    @field_validator("stages")
    @classmethod
    def _one_per_feature(cls, stages: tuple[str, ...], given: ValidationInfo) -> tuple[str, ...]:
        features = len(given.data.get("features", stages))  # missing if they are invalid themselves
        if len(stages) != features:
            raise ValueError(f"must be as many as the features, {features:,}")
        return stages

    @property
    def sized(self) -> tuple[str, ...]:
        """The stages."""
        return self.stages

    def pairs(self) -> Iterator[Ends]:
        """Yield the edges by target, the deepest stage first."""
        for stage in reversed(range(len(self.stages))):
            for src in (*self.features[stage:], *self.pooled, *reversed(self.stages[stage + 1 :])):
                yield src, self.stages[stage]

    @property
    def count(self) -> int:
        """The number of edges, L (L + 1)."""
        return len(self.stages) * (len(self.stages) + 1)


PATTERNS: dict[str, type[Pattern]] = {
    pattern.pattern_name: pattern
    for pattern in (Chain, Complete, Bipartite, Layers, Residual, Random, FullyDenseDecoder)
}
"""Name in ``connect`` -> pattern."""
