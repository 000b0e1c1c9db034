"""The compiled network: a graph's modules, its learner, and the interpreter that runs them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from topolearn.compiler.dag import DAG, Outputs
from topolearn.compiler.modules import BatchNorm, ModuleTable, backbone, build_edge, build_node, timm_encoder
from topolearn.compiler.modules.part import Sources
from topolearn.compiler.plan import edge_key, ends
from topolearn.compiler.reference import ReferenceDAG
from topolearn.errors import GraphError, OptionError, TopolearnError, shown
from topolearn.graph import BindFanIn, Graph, KeepEdges, RemoveIdleRelus, Topology, apply_passes
from topolearn.ops import Bundle, Shape
from topolearn.ops.backbone import TimmBackbone, TorchvisionBackbone
from topolearn.ops.part import NetworkPart


class WeightSource(Protocol):
    """A module in a network that gives the edge weights, such as :class:`topolearn.learners.EdgeLearner`."""

    @property
    def graph(self) -> Graph:
        """The graph that the edges belong to."""

    @property
    def fan_in(self) -> int | None:
        """Candidates that each node keeps; None for no limit."""

    def edge_weights(self) -> Tensor:
        """Return the (E,) edge weights of the forward pass."""

    def active(self) -> Tensor | None:
        """Return (E,) bool, the edges that ``mean`` divides by; None: all."""

    def forward_begins(self, parameters: Iterable[Tensor]) -> None:
        """Called before each forward pass in training, with some parameters that every step changes."""

    def topology(self) -> Topology:
        """Return the closed topology that would be kept now."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""


class MeanDivisor(nn.Module):
    """Divides each edge's weight into a ``mean`` node by the number of its active in-edges."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        rows = {node: row for row, node in enumerate(graph.nodes)}
        mean = [graph.nodes[edge.dst].aggregate == "mean" for edge in graph.edges]
        self.any = any(mean)
        self.rows = len(rows)
        self.target: Tensor
        self.mean: Tensor
        self.register_buffer("target", torch.tensor([rows[edge.dst] for edge in graph.edges]), persistent=False)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)

    def forward(self, weights: Tensor, active: Tensor | None) -> Tensor:
        """Turn (E,) weights into (E,) effective weights; the divisor is a constant to autograd.

        Args:
            weights: (E,) edge weights.
            active: (E,) bool, the edges that the divisor counts; None: all.
        """
        if not self.any:
            return weights
        counted = torch.ones_like(weights) if active is None else active.to(weights.dtype)
        counts = weights.new_zeros(self.rows).index_add(0, self.target, counted)
        # Not torch.where: it would copy the number to a GPU and wait.
        return weights / counts[self.target].clamp(min=1).masked_fill(~self.mean, 1.0)


class Network(nn.Module):
    """A compiled graph: an ``nn.Module`` with the graph's modules and, during a search, a learner.

    With every interpreter, ``state_dict()`` has the graph's own layout (``nodes.ID.…``, ``edges.SRC__DST.…``,
    ``shared.GROUP.…``, and ``learner.…`` if there is a learner).

    Attributes:
        graph: The graph.
        learner: The edge learner; None if edges have fixed weights.
        about: What a server needs to know about the training data (``mean``, ``std``, ``classes``); written into
            exported files. ``new_layer``: path of a last layer that starts at random, in the network it was lifted
            from.
        frozen_affine: Names of parameters that only a phase of training has frozen.
        dag: The interpreter: ``dag(inputs, effective_weights)``. Compile, capture or export this, not the network.
    """

    def __init__(self, graph: Graph, learner: WeightSource | None = None, *, reference: bool = False) -> None:
        super().__init__()
        graph = BindFanIn(None if learner is None else learner.fan_in)(graph).verify()
        if learner is not None:
            _check_learner(learner, graph)
        self.graph = graph
        self.learner = learner
        self.about: dict[str, Any] = {}
        self.frozen_affine: set[str] = set()
        self.reference = reference
        self.shared = ModuleTable()
        self.nodes = ModuleTable()
        sources = Sources(graph)
        for node in graph.nodes.values():
            if node.op == NetworkPart.op_name:
                self.nodes[node.id] = sources.build(node)
            elif node.op != "input":
                self.nodes[node.id] = self._build_node(node.id)
        self.edges = ModuleTable()
        for edge in graph.edges:
            if edge.rule.has_parameters:
                key = edge_key(edge)
                if key in self.edges:
                    raise GraphError(f"two edges are both called '{key}'; rename a node so that no id holds '__'")
                self.edges[key] = build_edge(edge.rule, *ends(graph, edge))
        self._divide = MeanDivisor(graph)
        self._frozen: tuple[float, ...] | None = None
        self._effective: tuple[float, ...] | None = None
        if learner is None:
            self.set_edge_weights([edge.weight for edge in graph.edges])
        self.dag: nn.Module
        self._link()

    def _build_node(self, name: str) -> nn.Module:
        node, graph = self.graph.nodes[name], self.graph
        rule = node.rule
        x: Shape | Bundle | None = node.input
        if rule.takes_bundle:
            x = graph.shapes[graph.edges[graph.in_edges(name)[0]].src]
        module = build_node(rule, x)
        for part, group in node.share.items():
            own = getattr(module, part)
            if own is not None:
                if group not in self.shared:
                    self.shared[group] = own
                setattr(module, part, None)
        if node.aggregate == "normalised":
            assert node.input is not None
            module.add_module("aggregate", BatchNorm(node.input.channels, affine=False))
        return module

    def _link(self) -> None:
        """Make the interpreter; it is not a submodule, so that parameters keep the graph's own names."""
        interpreter = ReferenceDAG if self.reference else DAG
        self.__dict__["dag"] = interpreter(self.graph, self.nodes, self.edges, self.shared)
        self.dag.training = self.training

    def set_edge_weights(self, weights: Tensor | Sequence[float]) -> None:
        """Freeze the edges at given weights; a learner is no longer used.

        A ``mean`` divides by the number of in-edges whose weight is not 0.

        Args:
            weights: (E,) one weight per edge, in the graph's order.

        Raises:
            TopolearnError: The number of weights differs from the number of edges, or a weight is not finite.
        """
        if isinstance(weights, Tensor):
            weights = weights.detach().cpu()
        given = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
        if given.shape != (len(self.graph.edges),):
            raise TopolearnError(
                f"edge weights of shape {tuple(given.shape)} do not fit a graph of {len(self.graph.edges)} edges"
            )
        if not bool(torch.isfinite(given).all()):
            raise TopolearnError("an edge weight is not finite; give finite numbers")
        self._frozen = tuple(given.tolist())
        with torch.device("cpu"):  # even if the network is built on the meta device
            divide = MeanDivisor(self.graph)
        self._effective = tuple(divide(given, given != 0).tolist())

    @property
    def frozen_edge_weights(self) -> tuple[float, ...] | None:
        """(E,) the frozen weights; None while a learner gives them."""
        return self._frozen

    def effective_weights(self) -> Tensor | tuple[float, ...]:
        """Return the (E,) weights of the aggregation, including the divisor of ``mean``.

        They are a tensor while the edges are learned, constants otherwise.
        """
        if self._effective is not None:
            return self._effective
        assert self.learner is not None
        return self._divide(self.learner.edge_weights(), self.learner.active())  # type: ignore[no-any-return]

    def divided(self, weights: Tensor) -> Tensor:
        """Return given (E,) edge weights divided as in a network frozen at them: by the in-edges that are not 0."""
        return self._divide(weights, weights != 0)  # type: ignore[no-any-return]

    def _repr_svg_(self) -> str:
        """Show the graph in a notebook."""
        return self.graph._repr_svg_()

    def forward(self, *inputs: Tensor | Mapping[str, Tensor], **named: Tensor) -> Outputs:
        """Run the network.

        Args:
            inputs: The input (N, C, H, W) or (N, features), if there is only one; or one dict of inputs by id, which
                may also hold inputs that pruning has removed.
            named: Inputs by id.

        Returns:
            One output as a tensor, several as a dict by node id.
        """
        searching = self._frozen is None and self.training and torch.is_grad_enabled()
        if searching and not torch.compiler.is_compiling():
            assert self.learner is not None
            # Checking all parameters would take longer than the step of a small network.
            self.learner.forward_begins(p for name in self.graph.outputs for p in self.nodes[name].parameters())
        return self.dag(self._inputs(inputs, named), self.effective_weights())  # type: ignore[no-any-return]

    def _inputs(
        self, inputs: Sequence[Tensor | Mapping[str, Tensor]], named: Mapping[str, Tensor]
    ) -> Tensor | dict[str, Tensor]:
        names = self.graph.inputs
        if len(inputs) == 1 and not named:
            (only,) = inputs
            if isinstance(only, Mapping):
                inputs, named = (), {name: only[name] for name in names if name in only}
            elif len(names) == 1:
                return only
        given: dict[str, Any] = {**dict(zip(names, inputs, strict=False)), **named}
        if len(inputs) > len(names) or set(given) != set(names):
            raise TopolearnError(f"the network takes {', '.join(names)}; give each once, by keyword")
        return given[names[0]] if len(names) == 1 else given

    def topology(self) -> Topology:
        """Return what the learner would keep; without a learner or once frozen, the edges whose weight is not 0."""
        if self._frozen is not None:
            return Topology(tuple(w != 0 for w in self._frozen), self._frozen).close(self.graph)
        assert self.learner is not None
        return self.learner.topology()

    def train(self, mode: bool = True) -> Network:
        """Switch training mode; the interpreter follows."""
        super().train(mode)
        self.dag.train(mode)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(
            # `net.compile()` stores a call that is bound to this network; a copy must not take it along.
            {
                key: copy.deepcopy(value, memo)
                for key, value in self.__dict__.items()
                if key not in ("dag", "_compiled_call_impl")
            }
        )
        copied._link()
        # A copied torchvision backbone is in training mode, and its graph depends on the mode.
        modes = {name: module.training for name, module in self.named_modules()}
        for name, module in copied.named_modules():
            if module.training != modes[name]:
                module.train(modes[name])
        return copied

    def extra_repr(self) -> str:
        """Return the graph in one line."""
        return repr(self.graph)


def _check_learner(learner: WeightSource, graph: Graph) -> None:
    """Raise a GraphError unless the learner's edges are the graph's."""
    theirs, ours = ([(edge.src, edge.dst, edge.learnable) for edge in g.edges] for g in (learner.graph, graph))
    if theirs != ours:
        raise GraphError(
            f"the learner was made for graph '{learner.graph.name}' of {len(theirs)} edges, not for '{graph.name}' of"
            f" {len(ours)}; make it for the graph that is compiled"
        )


def compile(
    graph_or_net: Graph | nn.Module, learner: WeightSource | None = None, *, reference: bool = False
) -> Network:
    """Build the network of a graph.

    Args:
        graph_or_net: A graph, or a network to copy the weights from, also inside a plain wrapper such as DDP.
        learner: Gives the edge weights; without a learner, each edge has its ``weight`` from the graph.
        reference: Use the slow, obvious interpreter.

    Returns:
        An ``nn.Module``. Pass one input as a tensor and several by keyword. It returns one output as a tensor and
        several as a dict by node id.

    Raises:
        GraphError: The graph is not a valid network.
        OptionError: The first argument is neither a graph nor a network over a graph, or the second is no learner.
    """
    if learner is not None and (isinstance(learner, type) or not hasattr(learner, "edge_weights")):
        raise OptionError(
            f"compile takes a learner made for the graph, not {shown(learner)}; write"
            " compile(graph, topolearn.learners.MaskConnect(graph))"
        )
    if isinstance(graph_or_net, Graph):
        return Network(graph_or_net, learner, reference=reference)
    if isinstance(graph_or_net, str | Path):
        raise OptionError(f"compile takes a graph, not the name of one; write compile(load_graph('{graph_or_net}'))")
    source = require_network(graph_or_net, "compile")
    network = Network(source.graph, learner, reference=reference)
    copy_weights(source, network)
    if learner is None and source.frozen_edge_weights is not None:
        network.set_edge_weights(source.frozen_edge_weights)
    return network.train(source.training)


def load_pretrained(net: nn.Module) -> None:
    """Load the pretrained weights that the graph names for its backbones (``weights: IMAGENET1K_V1``), if any.

    :func:`topolearn.fit` calls it when training starts. Building a network does not: a new network's weights are
    random. Torchvision and timm download weights that are not in their folders yet.

    Args:
        net: A network on any device; its other weights stay as they are.

    Raises:
        TrainingError: The weights cannot be loaded.
        OptionError: Not a network over a graph.
    """
    net = require_network(net, "load_pretrained")
    for node in net.graph.nodes.values():
        if isinstance(node.rule, TorchvisionBackbone) and node.rule.weights is not None:
            backbone.load_pretrained(node.rule, net.nodes[node.id])
        elif isinstance(node.rule, TimmBackbone) and node.rule.weights is not None:
            timm_encoder.load_encoder(node.rule, net.nodes[node.id])


def unwrapped(module: Any) -> Any:
    """Return the module inside plain wrappers such as DDP, ``nn.DataParallel`` and ``torch.compile``.

    A plain wrapper is an ``nn.Sequential`` of one module, or has one child called ``module`` or ``_orig_mod``. It has
    no parameters of its own and no hooks that could change inputs or outputs. Everything else is returned as it is.
    """
    while isinstance(module, nn.Module):
        children = dict(module.named_children())
        plain = type(module) is nn.Sequential or children.keys() <= {"module", "_orig_mod"}
        own = next(module.parameters(recurse=False), None) is not None
        if len(children) != 1 or not plain or own or module._forward_hooks or module._forward_pre_hooks:
            break
        (module,) = children.values()
    return module


def require_network(net: object, function: str) -> Network:
    """Return the network over a graph that ``net`` is or wraps.

    Args:
        net: The caller's argument.
        function: Name of the function that they called, for the error.

    Raises:
        OptionError: ``net`` is something else.
    """
    found = unwrapped(net)
    if not isinstance(found, Network):
        raise OptionError(
            f"{function} takes a network over a graph, not a {type(net).__name__}; compile a graph first, or lift a"
            " torchvision network"
        )
    return found


def copy_weights(source: Network, target: Network) -> None:
    """Copy every parameter and buffer of ``target`` from ``source``; ``target`` moves to its device and dtype.

    A parameter that does not train stays so, unless only a phase of training has frozen it.
    """
    first = next(source.parameters(), None)
    if first is not None:
        dtypes = {parameter.dtype for parameter in source.parameters()}
        target.to(device=first.device, dtype=first.dtype if len(dtypes) == 1 else None)
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("learner.")}
    own = [name for name in target.state_dict() if not name.startswith("learner.")]
    renamed = _moved_edges(source, target)
    before, parameters = (dict(net.named_parameters(remove_duplicate=False)) for net in (source, target))
    wanted = {}
    for name in own:
        prefix, _, rest = name.removeprefix("edges.").partition(".")
        old = f"edges.{renamed[prefix]}.{rest}" if name.startswith("edges.") and prefix in renamed else name
        wanted[name] = state[old]
        if name in parameters:
            parameters[name].data = parameters[name].data.to(state[old].dtype)
            parameters[name].requires_grad_(old in source.frozen_affine or before[old].requires_grad)
    target.load_state_dict(wanted, strict=False)
    target.about = dict(source.about)


def _moved_edges(source: Network, target: Network) -> dict[str, str]:
    """Return new key -> old key of edge modules whose edge now ends in a node that a pass inserted."""
    moved = {}
    consumers = {edge.src: edge.dst for edge in target.graph.edges}
    for edge in target.graph.edges:
        if edge.dst not in source.graph.nodes:
            moved[edge_key(edge)] = f"{edge.src}__{consumers[edge.dst]}"
    return moved


def prune(net: nn.Module, topology: Topology | None = None) -> Network:
    """Remove what is not kept: edges, nodes without a path from input to output, and relus that change nothing.

    In eval mode the result computes the same as ``net`` masked by the same topology. Its edges have their learned
    weights as fixed ones. In training, a member of a shared part that is left alone at its depth uses its own batch
    statistics.

    Args:
        net: A network, with a learner or frozen edge weights, also inside a plain wrapper such as DDP.
        topology: What to keep; default: what the learner would keep.

    Returns:
        A network over the pruned graph, with the weights carried over.

    Raises:
        OptionError: Not a network over a graph.
    """
    net = require_network(net, "prune")
    return prune_to(net, net.graph.outputs, net.topology() if topology is None else topology)


def prune_to(net: Network, outputs: tuple[str, ...], topology: Topology) -> Network:
    """Prune a network to other outputs; remove also what only its own outputs need."""
    graph = apply_passes(net.graph.replace(outputs=outputs), KeepEdges(topology), RemoveIdleRelus())
    pruned = Network(graph, reference=net.reference)
    copy_weights(net, pruned)
    return pruned.train(net.training)
