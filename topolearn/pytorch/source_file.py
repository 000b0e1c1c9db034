"""Writes a network as one readable Python file that needs PyTorch only, with its weights beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from pprint import pformat
from typing import Any

from torch import Tensor, fx, nn

from topolearn.compiler import Network, prune
from topolearn.compiler.modules import backbone, build_edge, timm_encoder
from topolearn.compiler.modules.part import reading_size
from topolearn.compiler.network import require_network
from topolearn.compiler.plan import depths, edge_key, ends
from topolearn.errors import ExportError
from topolearn.files import write_atomically
from topolearn.graph import Node
from topolearn.onnx import usual_axes
from topolearn.onnx.wrappers import Baked, constant_weights
from topolearn.ops.backbone import TimmBackbone, TorchvisionBackbone
from topolearn.ops.part import NetworkPart
from topolearn.pytorch.calls import INDENT, WIDTH, Called, Names, Written, assigned
from topolearn.pytorch.checked import PyTorchReport, ready, report
from topolearn.pytorch.part_source import GIVEN, PartWriter, library_network
from topolearn.pytorch.written import BASE, SourceParts, Unwritable, failure, plain
from topolearn.tracing.builders import open_source
from topolearn.tracing.region import Region

_READ = '''
def load(path=Path(__file__).with_suffix(".safetensors")):
    """Return the network in eval mode, with the weights of a safetensors file."""
    net = Net()
    net.load_state_dict(read(path))
    return net.eval()


def read(path):
    """Return the tensors of a safetensors file by name."""
    data = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
    tensors = {}
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            values = torch.frombuffer(data[start + first : start + last] or bytearray(8), dtype=types[about["dtype"]])
            tensors[name] = values[: math.prod(about["shape"])].reshape(about["shape"])
    return tensors
'''


def export_torch(net: nn.Module, path: str | Path, *, check: bool = True) -> PyTorchReport:
    """Write a network as a Python file that a person can read and change, and its weights beside it.

    The file imports PyTorch only; it imports torchvision or timm too if it has modules of theirs. Its class ``Net`` has
    one module for each node, under the node's name, and its ``load()`` returns the network with the weights. What was
    removed is left out, and the rest computes what it computes now: in eval mode and in training. Nodes without parts
    of a lifted network take every size that the graph takes.

    Args:
        net: The network, also inside a plain wrapper such as DDP. With a learner, edges are kept as by
            :func:`topolearn.prune`.
        path: The file, ``NAME.py``. The weights go to ``NAME.safetensors``. Both are written only if the check passes.
        check: Whether to run the file in a process of its own, and compare its outputs with the network's at two sizes.

    Raises:
        ExportError: A weight is NaN or infinite, something in the network cannot be written as source, or the file
            gives something else than the network.
        OptionError: Not a network over a graph.
    """
    target = Path(path)
    if target.suffix != ".py":
        raise ExportError(f"source code goes to a .py file, not to '{target.name}'")
    original = ready(prune(require_network(net, "export_torch")), target)
    text, tensors = source_of(original)
    weights = target.with_suffix(".safetensors")
    files = {target.name: text.encode(), weights.name: _saved(tensors)}
    axes = ("batch",) if original.graph.sources else usual_axes(original.graph)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        made = Path(folder) / target.name
        result = report(made, target, Baked(original, constant_weights(original)), original.graph, axes, check)
    write_atomically(weights, files[weights.name])
    write_atomically(target, files[target.name])
    return result


def _saved(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    plain_ones = {name: tensor.detach().contiguous().clone() for name, tensor in sorted(tensors.items())}
    data: bytes = save(plain_ones)
    return data


def source_of(net: Network) -> tuple[str, dict[str, Tensor]]:
    """Return the source of a pruned network, and the tensors that it loads.

    Raises:
        ExportError: A node cannot be written.
    """
    return _Writer(net).file()


class _Writer:
    """Writes one network."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.graph = net.graph
        self.weights = constant_weights(net)
        self.modules = SourceParts()
        self.names = Names(
            ("torch", "nn", "F", "math", "json", "Path", "self", "height", "width", "Net", "Block", GIVEN)
        )
        self.held: dict[str, Written] = {}
        self.library: str | None = None
        self.lines: list[str] = []
        self.strides: set[int] = set()

    def file(self) -> tuple[str, dict[str, Tensor]]:
        """Return the source, and the tensors that it loads."""
        graph = self.graph
        order = depths(graph) if any(node.share for node in graph.nodes.values()) else {}
        nodes = sorted(graph.nodes.values(), key=lambda node: order.get(node.id, 0))
        levels: dict[int, list[Node]] = {}
        for number, node in enumerate(nodes):
            if node.op != "input":
                levels.setdefault(order.get(node.id, number), []).append(node)
        for level in levels.values():
            self._level(level)
        arguments = [self.names[name] for name in graph.inputs]
        outputs = [self.names[name] for name in graph.outputs]
        pairs = ", ".join(f"{name!r}: {value}" for name, value in zip(graph.outputs, outputs, strict=True))
        result = outputs[0] if len(outputs) == 1 else f"{{{pairs}}}"
        init = [f"{INDENT * 2}super().__init__()"]
        if self.library is not None:
            init.append(assigned(GIVEN, self.library))
        init += [assigned(f"self.{name}", value) for name, value in self.held.items()]
        body = [*self._sizes(), *self.lines, f"{INDENT * 2}return {result}"]
        net = [
            "class Net(nn.Module):",
            f'{INDENT}"""The network."""',
            "",
            f"{INDENT}def __init__(self):",
            *init,
            "",
            f"{INDENT}def forward(self, {', '.join(arguments)}):",
            *body,
        ]
        classes = [BASE, *self.modules.definitions.values()] if self.modules.definitions else []
        text = "\n\n".join([self._header(), *(each.rstrip() + "\n" for each in classes), "\n".join(net) + "\n"])
        return text + "\n" + _READ, self.modules.tensors

    def _header(self) -> str:
        used, library = self.modules.imports, (self.library or "").partition(".")[0]
        about: dict[str, Any] = {"task": self.graph.task}
        about["input_size"] = {name: self.graph.input_rule(name).spec for name in self.graph.inputs}
        about |= {key: self.net.about[key] for key in ("mean", "std", "classes") if key in self.net.about}
        lines = [
            '"""A network in PyTorch. load() returns it with its weights, in eval mode."""',
            "",
            "import json",
            "import math",
            *(["from collections import OrderedDict"] if "OrderedDict" in used else []),
            "from pathlib import Path",
            "",
            *sorted(["import torch", *([f"import {library}"] if library else [])]),
            "from torch import nn",
            *(["from torch.nn import functional as F"] if "F" in used else []),
            "",
            f"ABOUT = {pformat(about, width=WIDTH, sort_dicts=False)}",
        ]
        return "\n".join(lines) + "\n"

    def _sizes(self) -> list[str]:
        """Return the lines that compute the size of a tensor of each stride."""
        if not self.strides:
            return []
        image = self.names[self.graph.image_inputs[0]]
        lines = [f"{INDENT * 2}height, width = {image}.shape[-2:]"]
        for stride in sorted(self.strides):
            rounded = [f"({side} + {stride - 1}) // {stride}" if stride > 1 else side for side in ("height", "width")]
            lines.append(f"{INDENT * 2}{self._size(stride)} = ({', '.join(rounded)})")
        return lines

    def _size(self, stride: Any) -> str:
        if not isinstance(stride, int):
            return "(1, 1)"
        self.strides.add(stride)
        return self.names[f"size {stride}"]

    # -- nodes ---------------------------------------------------------------------------------

    def _level(self, nodes: list[Node]) -> None:
        """Write nodes that may share parts: those run once, over a stacked batch."""
        inputs = {node.id: self._input(node) for node in nodes}
        parts: dict[str, list[tuple[str, Written]]] = {node.id: [] for node in nodes}
        members: dict[tuple[str, str], list[Node]] = {}
        for node in nodes:
            for part, group in node.share.items():
                if group in self.net.shared:
                    members.setdefault((part, group), []).append(node)
        for node in nodes:
            if any(node in found for found in members.values()) and not isinstance(inputs[node.id], str):
                name = self.names[f"{node.id} input"]
                self.lines.append(assigned(name, inputs[node.id]))
                inputs[node.id] = name
        for (part, group), found in members.items():
            shared = self._hold(f"shared {group}", self.net.shared[group], found[0].id)
            given = [f"{self._module(node)}.part_input({part!r}, {inputs[node.id]})" for node in found]
            names = [self.names[f"{node.id} {part}"] for node in found]
            if len(found) == 1:
                self.lines.append(assigned(names[0], f"{shared}({given[0]})"))
            else:
                stacked = Called("torch.cat", [("", Called("", [("", each) for each in given]))])
                self.lines.append(assigned(", ".join(names), f"{shared}({stacked.at(2)}).chunk({len(found)})"))
            for node, name in zip(found, names, strict=True):
                parts[node.id].append((part, name))
        for node in nodes:
            self.lines.append(assigned(self.names[node.id], self._output(node, inputs[node.id], parts[node.id])))

    def _input(self, node: Node) -> Written:
        """Return what a node's in-edges bring, aggregated."""
        graph = self.graph
        indices = graph.in_edges(node.id)
        if node.rule.takes_bundle:
            return f"{self.names[graph.edges[indices[0]].src]}[{node.params['name']!r}]"
        if node.rule.takes_ids:
            return self.names[graph.edges[indices[0]].src]
        terms = [("", self._term(index)) for index in indices]
        if node.aggregate == "concat":
            assert node.input is not None
            axis = node.input.channel_axis
            return Called("torch.cat", [("", Called("", terms)), ("", str(axis))])
        total = terms[0][1] if len(terms) == 1 else Called("", terms, between="+")
        if node.aggregate == "normalised":
            module = self.net.nodes[node.id].aggregate
            assert isinstance(module, nn.Module)
            return Called(self._hold(f"{node.id} aggregate", module, node.id), [("", total)])
        return total

    def _term(self, index: int) -> str:
        edge = self.graph.edges[index]
        term = self.names[edge.src]
        if edge.op != "identity":
            source, target = ends(self.graph, edge)
            key = edge_key(edge)
            module = self.net.edges[key] if edge.rule.has_parameters else build_edge(edge.rule, source, target)
            term = f"{self._hold(f'edge {key}', module, edge.dst, key)}({term}, {self._size(target.stride)})"
        weight = self.weights[index]
        return term if weight == 1.0 else f"{weight!r} * {term}"

    def _output(self, node: Node, x: Written, parts: list[tuple[str, Written]]) -> Written:
        module = self.net.nodes[node.id]
        if type(module) is nn.Identity or node.rule.takes_bundle:
            return x
        if type(module) is nn.ReLU:
            return Called("torch.relu", [("", x)])
        return Called(self._module(node), [("", x), *parts])

    def _module(self, node: Node) -> str:
        return self._hold(node.id, self.net.nodes[node.id], node.id)

    def _hold(self, key: str, module: nn.Module, node: str, wanted: str | None = None) -> str:
        """Write a module once, and return how the forward pass calls it."""
        name = self.names.named(key, wanted or key)
        if name not in self.held:
            try:
                self.held[name] = self._made(module, node, name)
            except Unwritable as error:
                raise failure(node, error) from None
        return f"self.{name}"

    def _made(self, module: nn.Module, node: str, place: str) -> Written:
        rule = self.graph.nodes[node].rule
        if isinstance(module, Region):
            assert isinstance(rule, NetworkPart)
            return self._part(module, rule, node, place)
        if isinstance(module, fx.GraphModule):
            if not isinstance(rule, TorchvisionBackbone):
                raise Unwritable(f"a {type(module).__name__}")
            options = backbone.backbone_options(rule)
            made = self.modules.define(backbone.make_backbone)
            self.modules.take(module, place)
            args = [("", plain(rule.model)), ("", plain(dict(rule.features)))]
            return Called(made, [*args, *((key, plain(value)) for key, value in options.items())])
        if isinstance(module, timm_encoder.TimmEncoder):
            assert isinstance(rule, TimmBackbone)
            return self._encoder(module, rule, place)
        return self.modules.module(module, place)

    def _encoder(self, module: timm_encoder.TimmEncoder, rule: TimmBackbone, place: str) -> Written:
        made = self.modules.define(timm_encoder.make_encoder)
        self.modules.take(module.network, f"{place}.network")
        given = {"img_size": rule.img_size, "bn_momentum": rule.bn_momentum}
        options = [(key, plain(value)) for key, value in given.items() if value is not None]
        levels = plain(sorted(set(rule.features.values())))
        parts = {"network": Called(made, [("", plain(rule.model)), ("", levels), *options])}
        return self.modules.block(module, place, parts)

    def _part(self, module: Region, rule: NetworkPart, node: str, place: str) -> Written:
        source = self.graph.sources[rule.source]
        opened = open_source(source, reading_size(self.graph))
        writer = PartWriter(self.modules, opened, source, module, place)
        name = "".join(word.capitalize() for word in node.split("_") if not word.isdecimal()) or "Part"
        call = writer.write(name, rule.after, rule.until)
        if writer.uses_library:
            self.library = library_network(source)
        return call
