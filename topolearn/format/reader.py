"""Builds a Graph from a parsed file: expands macros, and gives every error its line and column."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from topolearn.errors import FormatError, GraphError, TopolearnError, shown, suggest
from topolearn.format.patterns import PATTERNS, Pattern
from topolearn.format.ranges import MAX_IDS, RangeError, expand, is_range
from topolearn.format.source_fields import OPTIONS, SourceFields
from topolearn.format.tree import Document, Fields, Items, Scalar, Tree
from topolearn.frozen import EMPTY, FrozenMap
from topolearn.graph import Edge, Graph, Node, Source, chain_edges
from topolearn.graph.sequences import check_sequences, position_notes
from topolearn.ops import EDGE_OPS, NODE_OPS, Shape, edge_op
from topolearn.ops.base import MAX_INT, WIDTHS, width_name
from topolearn.options import InvalidOption, validate
from topolearn.plugins import load_plugins
from topolearn.task_kinds import DEFAULT_TASK, TASK_KINDS

VERSION = 1
"""Version of the file format: the value of the key ``topolearn``."""
MAX_EDGES = 5_000_000
"""Maximum number of edges in a graph file."""

_TOP = ("topolearn", "name", "task", "data", "inputs", "sources", "nodes", "edges", "outputs")
_NODE_KEYS = ("op", "aggregate", "input", "share")
_EDGE_KEYS = ("op", "learnable", "weight", "start")
MAX_DIMS = 8
"""Maximum number of dimensions of a tensor that is neither a map nor a sequence."""
_COLOURS = (1, 3, 4)
"""Usual numbers of channels of an image."""
STARTS = ("chain", "mean")
"""Values of an edge's key ``start``."""

T = TypeVar("T")


def build(document: Document) -> Graph:
    """Build the verified graph of a parsed file.

    Raises:
        FormatError: The file is not a graph.
        GraphError: The graph is not a valid network; gives the place of the wrong node or edge.
    """
    load_plugins()
    return _Reader(document).graph()


def check(document: Document) -> Graph:
    """Build a graph like :func:`build`, and check that it can be trained; warn about what is seldom meant.

    Raises:
        FormatError: As in :func:`build`.
        GraphError: As in :func:`build`, or the graph cannot be trained; gives the place of the wrong node or edge.
    """
    load_plugins()
    reader = _Reader(document)
    graph = reader.graph()
    reader.located(lambda: check_sequences(graph))
    for node, text in position_notes(graph):
        reader.hint(reader.node_places[node], text)
    return graph


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes: dict[str, Node] = {}
        self.node_places: dict[str, Tree] = {}
        self.params: dict[FrozenMap, FrozenMap] = {}
        self.edges: list[Edge] = []
        self.edge_places: list[Tree] = []
        self.starts: dict[tuple[str, str], Tree] = {}

    def graph(self) -> Graph:
        root = self.document.root
        self.known_keys(root, _TOP, "the file")
        version = self.scalar(self.need(root, "topolearn", "the file"), int, "the format version, 1")
        if version != VERSION:
            raise self.fail(root.values["topolearn"], f"written in format version {version}, but this reads {VERSION}")
        name = self.scalar(self.need(root, "name", "the file"), str, "a name")
        task = self.scalar(root.values["task"], str, "a task") if "task" in root.values else DEFAULT_TASK
        if task not in TASK_KINDS:
            raise self.fail(root.values["task"], f"unknown task '{task}'{suggest(task, TASK_KINDS)}")
        data = self.scalar(root.values["data"], str, "a data set's name") if "data" in root.values else None
        for key, value in self.fields(self.need(root, "inputs", "the file"), "inputs").items():
            self.add_node(key, value, Node(key.text, "input", self.input_params(value)))
        sources = {}
        for key, value in self.fields(root.values["sources"], "sources").items() if "sources" in root.values else ():
            sources[key.text] = self.source(key, value)
        for key, value in self.fields(self.need(root, "nodes", "the file"), "nodes").items():
            self.read_nodes(key, value)
        for entry in self.items(self.need(root, "edges", "the file"), "edges"):
            self.read_edges(entry)
        outputs = self.ids(self.need(root, "outputs", "the file"))
        made = (name, self.nodes, tuple(self.edges), tuple(outputs), task, data, sources)
        graph = self.located(lambda: Graph(*made).declare_inputs().verify())
        self.hint_at_resizing(graph)
        if "task" not in root.values and [self.nodes[name].op for name in outputs] == ["segmentation_head"]:
            self.hint(self.node_places[outputs[0]], "a segmentation_head, but no task; add 'task: segmentation'")
        return self.started(graph) if self.starts else graph

    def hint_at_resizing(self, graph: Graph) -> None:
        """Warn about resizing edges into nodes without ``input``: these take the size of their smallest source."""
        places = dict(zip(((edge.src, edge.dst) for edge in self.edges), self.edge_places, strict=True))
        resized: dict[str, Edge] = {}
        for edge in graph.edges:
            if EDGE_OPS[edge.op].resizes and self.nodes[edge.dst].input is None:
                resized.setdefault(edge.dst, edge)
        for node, edge in resized.items():
            shapes = [graph.shapes[graph.edges[i].src] for i in graph.in_edges(node)]
            maps = [(shape.stride, shape) for shape in shapes if isinstance(shape, Shape) and type(shape.stride) is int]
            if len(maps) == len(shapes):
                stride, finest = min(maps, key=lambda each: each[0])
                self.hint(
                    places[edge.src, edge.dst],
                    f"'{edge.op}' enlarges nothing here, because node '{node}' has no 'input' and takes the size of"
                    " its smallest source; give it one, such as"
                    f" input: {{channels: {finest.channels}, stride: {stride}}}",
                )

    def source(self, key: Scalar, value: Tree) -> Source:
        """Read a network that parts come from; it is not built."""
        spec = self.as_fields(value, f"source '{key.text}'", "{library: torchvision, model: vit_b_16, …}")
        plain = {name: tree.plain() for name, tree in spec.values.items()}
        source = self.located(lambda: validate(SourceFields, plain, f"source '{key.text}'"), key, spec)
        if source.options:
            place, what = spec.values["options"], f"the options of source '{key.text}'"
            self.located(lambda: validate(OPTIONS[source.library], source.options, what), place, place)
        return source.source()

    # -- nodes ---------------------------------------------------------------------------------

    def add_node(self, place: Tree, value: Tree, node: Node) -> None:
        if node.id in self.nodes:
            first = self.node_places[node.id].line + 1
            raise self.fail(place, f"duplicate id '{node.id}'; line {first} already has it")
        if len(self.nodes) >= MAX_IDS:
            raise self.fail(place, f"more than {MAX_IDS:,} nodes")
        self.located(lambda: node.rule, place, value)
        self.nodes[node.id] = node
        self.node_places[node.id] = place

    def read_nodes(self, key: Scalar, value: Tree) -> None:
        spec = self.as_fields(value, f"node '{key.text}'", "{op: …}")
        ids = self.expand(key)
        ranged = is_range(key.text)
        op = self.scalar(self.need(spec, "op", f"node '{key.text}'"), str, "an op's name")
        if op not in NODE_OPS:
            raise self.fail(spec.values["op"], f"unknown op '{op}'{suggest(op, NODE_OPS)}")
        if op == "input":
            raise self.fail(spec.values["op"], "declare inputs under 'inputs', such as 'image: [3, 32, 32]'")
        spec = self.own_width(spec, width_name(NODE_OPS[op]), f"node '{key.text}'")
        self.known_keys(spec, (*_NODE_KEYS, *NODE_OPS[op].model_fields), f"node '{key.text}'")
        dealt = {name: self.deal(name, tree, ids, ranged) for name, tree in spec.values.items() if name != "op"}
        for index, node_id in enumerate(ids):
            trees = {name: trees[index] for name, trees in dealt.items()}
            aggregate = (
                self.scalar(trees["aggregate"], str, "an aggregate") if "aggregate" in trees else NODE_OPS[op].aggregate
            )
            shape = self.input_shape(trees["input"]) if "input" in trees else None
            share = trees["share"].plain() if "share" in trees else {}
            if not isinstance(share, dict):
                raise self.fail(trees["share"], "'share' is a mapping from part to group, such as {projection: stage2}")
            params = FrozenMap({name: tree.plain() for name, tree in trees.items() if name not in _NODE_KEYS})
            params = self.params.setdefault(params, params)  # thousands of nodes share few: equal ones are one object
            node = Node(node_id, op, params, aggregate, shape, FrozenMap(share))
            self.add_node(key, spec, node)

    def own_width(self, spec: Fields, own: str | None, what: str) -> Fields:
        """Return a node's fields with the size of its output under the name that its op uses."""
        given = [name for name in WIDTHS if name in spec.values]
        if own is None or given in ([], [own]):
            return spec
        if len(given) > 1:
            raise self.fail(spec.keys[given[1]], f"'{given[0]}' and '{given[1]}' of {what} mean the same; drop one")
        renamed = Fields(spec.line, spec.column)
        for name, tree in spec.values.items():
            here = own if name == given[0] else name
            renamed.keys[here], renamed.values[here] = spec.keys[name], tree
        return renamed

    def deal(self, name: str, tree: Tree, ids: list[str], ranged: bool) -> list[Tree]:
        """Return the value of one key for each id; over a range, each id gets one entry of a list."""
        if not ranged or not isinstance(tree, Items):
            return [tree] * len(ids)
        if len(tree.items) != len(ids):
            raise self.fail(
                tree, f"'{name}' lists {len(tree.items)} values for {len(ids)} nodes; give one for each, or one for all"
            )
        return tree.items

    def input_params(self, tree: Tree) -> FrozenMap:
        """Read an input: an image or a vector by its size, a sequence by its length and its vocabulary or channels."""
        if isinstance(tree, Fields):
            self.known_keys(tree, ("length", "vocabulary", "channels"), "an input")
            if set(tree.values) not in ({"length", "vocabulary"}, {"length", "channels"}):
                raise self.fail(
                    tree,
                    "a sequence is {length: 128, vocabulary: 256} of ids, or {length: 128, channels: 8} of vectors",
                )
            return FrozenMap(tree.plain())
        if not isinstance(tree, Items):
            raise self.fail(
                tree, "an input's size is a list, such as [3, 32, 32], or {length: 128, vocabulary: 256} for a sequence"
            )
        size = tree.plain()
        if len(size) == 3 and size[:2] == [1, 1] and isinstance(size[2], int) and size[2] > 1:
            self.hint(tree, f"an image one pixel high; write a sequence as {{length: {size[2]}, channels: 1}}")
        if len(size) == 3 and size[0] == size[1] and size[0] not in _COLOURS and size[2] in _COLOURS:
            right = [size[2], *size[:2]]
            self.hint(tree, f"an image of {size[0]} channels; channels come first, so you may mean {right}")
        return FrozenMap({"size": size})

    def hint(self, tree: Tree, message: str) -> None:
        """Warn about something that is valid but probably not meant."""
        warnings.warn(f"{self.document.at(tree)}: {message}", stacklevel=2)

    def input_shape(self, tree: Tree) -> Shape:
        spec = self.as_fields(tree, "'input'", "{channels: 16, stride: 1}")
        self.known_keys(spec, ("channels", "stride", "length", "vocabulary", "dims"), "'input'")
        if "dims" in spec.values:
            return self.other_shape(spec)
        if "length" in spec.values:
            return self.sequence_shape(spec)
        channels = self.count(spec, "channels", "'input'")
        stride_tree = self.need(spec, "stride", "'input'")
        stride = stride_tree.plain()
        whole = isinstance(stride, int) and not isinstance(stride, bool) and 0 < stride <= MAX_INT
        if not whole and stride not in ("global", None):
            raise self.fail(stride_tree, f"a stride is a positive number, 'global' or null, not {shown(stride)}")
        return Shape(channels, stride)

    def other_shape(self, spec: Fields) -> Shape:
        """Read the declared shape of any other tensor: ``{dims: [56, 56, 96]}``."""
        self.known_keys(spec, ("dims",), "'input' with 'dims'")
        dims = spec.values["dims"].plain()
        counts = isinstance(dims, list) and all(type(n) is int and 0 < n <= MAX_INT for n in dims)
        if not counts or not 0 < len(dims) <= MAX_DIMS:
            raise self.fail(spec.values["dims"], f"dims are 1 to {MAX_DIMS} positive numbers, such as [56, 56, 96]")
        return Shape(dims[-1], dims=tuple(dims))

    def sequence_shape(self, spec: Fields) -> Shape:
        """Read the declared shape of a sequence: ``{channels, length}``, or ``{length, vocabulary}`` for ids."""
        ids = "vocabulary" in spec.values
        for key in ("stride", "channels") if ids else ("stride",):
            if key in spec.values:
                raise self.fail(spec.keys[key], f"'input' has a 'length', so it takes no '{key}'")
        length = self.count(spec, "length", "'input'")
        if ids:
            return Shape(1, None, length, self.count(spec, "vocabulary", "'input'"))
        return Shape(self.count(spec, "channels", "'input'"), length=length)

    def count(self, spec: Fields, key: str, what: str) -> int:
        """Read a positive whole number."""
        number = self.scalar(self.need(spec, key, what), int, f"a number for '{key}'")
        if not 0 < number <= MAX_INT:
            raise self.fail(spec.values[key], f"{key} must be from 1 to {MAX_INT}")
        return number

    # -- edges ---------------------------------------------------------------------------------

    def read_edges(self, tree: Tree) -> None:
        entry = self.as_fields(tree, "an edge", "{from: a, to: b}")
        own: tuple[str, ...]
        if "into" in entry.values:
            kind, own = "an edge group", ("into",)
        elif "connect" in entry.values:
            own = ("connect", *self.pattern_keys(entry))
            kind = f"pattern '{entry.values['connect'].plain()}'"
        else:
            kind, own = "an edge", ("from", "to")
        op = self.scalar(entry.values["op"], str, "an edge op's name") if "op" in entry.values else "identity"
        if op not in EDGE_OPS:
            raise self.fail(entry.values["op"], f"unknown edge op '{op}'{suggest(op, EDGE_OPS)}")
        self.known_keys(entry, (*own, *_EDGE_KEYS, *EDGE_OPS[op].model_fields), kind)
        learnable = (
            self.scalar(entry.values["learnable"], bool, "true or false") if "learnable" in entry.values else False
        )
        weight = self.weight(entry.values["weight"]) if "weight" in entry.values else 1.0
        start = self.start(entry, learnable) if "start" in entry.values else None
        given = {
            name: value.plain() for name, value in entry.values.items() if name not in own and name not in _EDGE_KEYS
        }
        params = FrozenMap(given) if given else EMPTY
        self.located(lambda: edge_op(op, params), entry, entry)

        def add(src: str, dst: str, place: Tree, weight: float) -> None:
            if len(self.edges) >= MAX_EDGES:
                raise self.fail(entry, f"more than {MAX_EDGES:,} edges")
            self.edges.append(Edge(src, dst, op, params, learnable, weight))
            self.edge_places.append(place)
            if start is not None:
                self.starts[src, dst] = start

        if "into" in entry.values:
            for src, dst, place, number in self.explicit(entry.values["into"]):
                if number is not None and start is not None:
                    raise self.fail(
                        number, f"'start: {start.plain()}' gives '{src}' its weight; drop this one, or 'start'"
                    )
                add(src, dst, place, weight if number is None else self.weight(number))
        elif "connect" in entry.values:
            for src, dst in self.pattern(entry):
                add(src, dst, entry, weight)
        else:
            sources = self.ids(self.need(entry, "from", "an edge"))
            targets = self.ids(self.need(entry, "to", "an edge"))
            if len(sources) > 1 and len(targets) > 1:
                raise self.fail(entry, "both ends name several nodes; use 'connect: bipartite' for every pair")
            for dst in targets:
                for src in sources:
                    add(src, dst, entry, weight)

    def explicit(self, tree: Tree) -> Iterator[tuple[str, str, Tree, Tree | None]]:
        """Yield edges grouped by target, ``block8: [block1, block3: 0.7]``: source, target, place, weight if given."""
        groups = self.as_fields(tree, "'into'", "{block8: [block1, block3: 0.7]}")
        for key, value in groups.values.items():
            for item in self.items(value, key):
                if isinstance(item, Scalar):
                    yield item.text, key, item, None
                elif isinstance(item, Fields):
                    for src, number in item.values.items():
                        yield src, key, item.keys[src], number
                else:
                    raise self.fail(item, "a source is an id, or an id with its weight, such as 'block3: 0.7'")

    def pattern_keys(self, entry: Fields) -> tuple[str, ...]:
        name = self.scalar(entry.values["connect"], str, "a pattern's name")
        if name not in PATTERNS:
            raise self.fail(entry.values["connect"], f"unknown pattern '{name}'{suggest(name, PATTERNS)}")
        return tuple(PATTERNS[name].keys())

    def pattern(self, entry: Fields) -> Iterator[tuple[str, str]]:
        name = entry.values["connect"].plain()
        given: dict[str, Any] = {}
        for key, lists_ids in PATTERNS[name].keys().items():
            if key in entry.values:
                value = entry.values[key]
                given[key] = tuple(self.ids(value)) if lists_ids else value.plain()
        pattern: Pattern = self.located(lambda: validate(PATTERNS[name], given, f"pattern '{name}'"), entry, entry)
        for node in pattern.sized:
            if node in self.nodes and self.nodes[node].input is None:
                message = (
                    f"pattern '{name}' needs the 'input' of node '{node}', such as input: {{channels: 64, stride: 4}}"
                )
                raise self.fail(self.node_places[node], message)
        if len(self.edges) + pattern.count > MAX_EDGES:
            raise self.fail(entry, f"makes {pattern.count:,} edges; a graph may have {MAX_EDGES:,}")
        return pattern.pairs()

    def weight(self, tree: Tree) -> float:
        value = tree.plain()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise self.fail(tree, f"a weight is a number, not {shown(value)}")
        return float(value)

    def start(self, entry: Fields, learnable: bool) -> Tree:
        """Check and return the value of ``start``; :meth:`started` computes the weights once the graph is complete."""
        tree = entry.values["start"]
        value = self.scalar(tree, str, "a start, such as chain")
        if value not in STARTS:
            raise self.fail(tree, f"unknown start '{value}'{suggest(value, STARTS)}")
        if "weight" in entry.values:
            raise self.fail(entry.keys["start"], "'start' gives these edges their weights; drop it, or 'weight'")
        if not learnable:
            raise self.fail(entry.keys["start"], "'start' is for learnable edges; add 'learnable: true', or drop it")
        return tree

    def started(self, graph: Graph) -> Graph:
        """Return the verified graph with the weights that ``start`` sets.

        ``chain``: 1 for the candidate on the chain, 0 for the others. ``mean``: 1 / n for each of n candidates.
        """
        chain = set(chain_edges(graph).values())
        edges = list(graph.edges)
        for i, edge in enumerate(edges):
            place = self.starts.get((edge.src, edge.dst))
            if place is None:
                continue
            start = place.plain()
            if graph.nodes[edge.dst].aggregate == "mean":
                why = (
                    "which also counts the candidates that 'start: chain' sets to 0"
                    if start == "chain"
                    else "which already divides by the number of weights"
                )
                raise self.fail(place, f"node '{edge.dst}' takes the mean, {why}; use 'aggregate: sum' there")
            weight = 1.0 / len(graph.candidates[edge.dst]) if start == "mean" else float(i in chain)
            edges[i] = replace(edge, weight=weight)
        started = graph.replace(edges=tuple(edges))
        self.hint_at_branches(started)
        return started

    def hint_at_branches(self, graph: Graph) -> None:
        """Warn about each ``start: chain`` by which branches without a residual connection read one node only."""
        hinted: set[Tree] = set()
        for (_, dst), place in self.starts.items():
            node, edges = graph.nodes[dst], [graph.edges[i] for i in graph.in_edges(dst)]
            read = [edge for edge in edges if edge.weight]
            if place.plain() == "chain" and place not in hinted and node.rule.is_branch and len(read) == 1 < len(edges):
                hinted.add(place)
                self.hint(
                    place,
                    f"'{dst}' begins by reading '{read[0].src}' alone, and '{node.op}' has no residual connection of"
                    " its own, so the network begins without any; leave 'start' out: then all edges start at 1",
                )

    # -- parts ---------------------------------------------------------------------------------

    def fail(self, tree: Tree | None, message: str) -> FormatError:
        return self.document.error(tree, message)

    def need(self, fields: Fields, key: str, what: str) -> Tree:
        if key not in fields.values:
            raise self.fail(fields, f"{what} needs '{key}'")
        return fields.values[key]

    def known_keys(self, fields: Fields, known: tuple[str, ...], what: str) -> None:
        for key, place in fields.keys.items():
            if key not in known:
                raise self.fail(place, f"unknown key '{key}' of {what}{suggest(key, known)}")

    def as_fields(self, tree: Tree, what: str, example: str) -> Fields:
        if not isinstance(tree, Fields):
            raise self.fail(tree, f"{what} is a mapping, such as {example}")
        return tree

    def fields(self, tree: Tree, what: str) -> Mapping[Scalar, Tree]:
        fields = self.as_fields(tree, f"'{what}'", "{name: …}")
        return {fields.keys[key]: value for key, value in fields.values.items()}

    def items(self, tree: Tree, what: str) -> list[Tree]:
        if not isinstance(tree, Items):
            raise self.fail(tree, f"'{what}' is a list")
        return tree.items

    def scalar(self, tree: Tree, kind: type[T], what: str) -> T:
        value = tree.plain()
        if kind is str and isinstance(tree, Scalar) and value is not None:
            value = tree.text
        if type(value) is not kind:
            raise self.fail(tree, f"expected {what}, not {shown(value)}")
        return value

    def ids(self, tree: Tree) -> list[str]:
        """Read ids from an id, a range, or a list of these."""
        if isinstance(tree, Scalar):
            return self.expand(tree)
        found: list[str] = []
        for item in self.items(tree, "a list of ids"):
            found += self.ids(item)
            if len(found) > MAX_IDS:
                raise self.fail(tree, f"lists more than {MAX_IDS:,} nodes")
        return found

    def expand(self, word: Scalar) -> list[str]:
        try:
            return expand(word.text)
        except RangeError as error:
            raise self.fail(word, str(error)) from None

    def located(self, make: Callable[[], T], place: Tree | None = None, spec: Tree | None = None) -> T:
        """Run ``make`` and give its errors the place of the wrong option, node or edge."""
        try:
            return make()
        except InvalidOption as error:
            key = error.path[0] if error.path else ""
            if isinstance(spec, Fields) and key in spec.keys:
                unknown = error.message.startswith("unknown")
                place = spec.keys[key] if unknown else spec.values[key]
            raise self.fail(place, error.message) from None
        except GraphError as error:
            error.location = self.document.at(place or self.place_of(error))
            raise
        except TopolearnError as error:
            raise self.fail(place, error.message) from None

    def place_of(self, error: GraphError) -> Tree | None:
        if error.edge is not None:
            matches = [
                place
                for edge, place in zip(self.edges, self.edge_places, strict=True)
                if (edge.src, edge.dst) == error.edge
            ]
            if matches:
                return matches[-1]
        if error.node is not None:
            return self.node_places.get(error.node)
        return self.document.root.values.get("outputs" if "output" in error.message else "inputs")
