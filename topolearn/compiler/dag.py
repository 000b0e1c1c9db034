"""The compiled network: runs a plan over the modules of a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.compiler.aggregate import EdgeWeights, FanOut, Ledger, Sink, WeightedSum, weighted_sum
from topolearn.compiler.mix import Matrix, mix
from topolearn.compiler.modules import build_edge
from topolearn.compiler.modules.base import Modules
from topolearn.compiler.plan import Fan, Group, NodeStep, SiblingStep, Step, Term, depths, make_plan
from topolearn.compiler.siblings import Siblings, find_siblings
from topolearn.compiler.stacking import StackedBatchNorm, as_if_repeated, stack, weighted
from topolearn.graph import Graph

Inputs = Tensor | Mapping[str, Tensor]
Outputs = Tensor | dict[str, Tensor]
Weights = Tensor | Sequence[float]


class DAG(nn.Module):
    """A graph's forward pass for given effective edge weights.

    Effective means that the divisor of ``mean`` is already in them. A fixed edge's entry is its
    weight in the graph, and gets no gradient.

    It owns no tensors: the modules are the network's, whose ``state_dict`` keeps the graph's layout.
    Nodes that do the same work side by side run as one (:mod:`topolearn.compiler.siblings`), and so do the
    convolutions of ``conv_resize`` edges from one source: forward hooks on the modules of either are not called, what
    is put in the place of such a module is not seen, and all of them train or none does.
    """

    def __init__(self, graph: Graph, nodes: Modules, edges: Modules, shared: Modules) -> None:
        super().__init__()
        self.nodes = nodes
        self.edges = edges
        self.shared = shared
        self._stacked: dict[Siblings, nn.Module] = {}
        self.plan = make_plan(graph, find_siblings(graph, depths(graph), self._can_stack))
        self._matrices: dict[Term, Matrix] = {}
        self._transforms: dict[int, nn.Module] = {}
        self._fans: dict[Fan, nn.Module] = {}
        self._normalising: set[Fan] = set()
        self._resizes: dict[Group, nn.Module] = {}
        self._constants: dict[tuple[tuple[int, ...], type, torch.device], Tensor] = {}
        for level in self.plan.levels:
            for step in level:
                if isinstance(step, SiblingStep):
                    self._matrices.update({term: Matrix(term) for term in step.terms})
                else:
                    self._prepare_groups(step)
                for d in step.derive:
                    if isinstance(d, Fan):
                        self._fans[d] = self._fan(d)
                        if any(isinstance(module, StackedBatchNorm) for module in self._fans[d].modules()):
                            self._normalising.add(d)
                    else:
                        made = build_edge(d.rule, *d.shapes) if d.module is None else edges[d.module]
                        self._transforms[d.slot] = made

    def _prepare_groups(self, step: NodeStep) -> None:
        for group in step.groups:
            if group.resize is not None:
                assert group.shapes is not None
                self._resizes[group] = build_edge(group.resize, *group.shapes)

    def _fan(self, fan: Fan) -> nn.Module:
        """The convolutions of a fan's edges, side by side on a branch axis."""
        module = stack([self.edges[key].get_submodule("unit") for key in fan.modules])
        assert module is not None, "what ConvResize holds can be stacked"
        return module

    def constant(self, values: tuple[int, ...], device: torch.device) -> Tensor:
        """Indices or truth values as a tensor, made once."""
        key = (values, type(values[0]), device)  # (0, 1) equals (False, True)
        if key not in self._constants:
            with torch.inference_mode(False):  # a training step may be the next to need it
                self._constants[key] = torch.tensor(values, device=device)
        return self._constants[key]

    def _can_stack(self, ids: Siblings) -> bool:
        module = stack([self.nodes[name] for name in ids])
        if module is not None:
            self._stacked[ids] = module
        return module is not None

    def forward(self, inputs: Inputs, weights: Weights) -> Outputs:
        """Run the network.

        Args:
            inputs: (N, C, H, W) or (N, features); a mapping by input id where there are several.
            weights: (E,) effective edge weights; Python numbers are constants, and those equal to 0
                cost no addition but between sets of siblings, whose weights are one matrix. What computes is not left
                out: :func:`topolearn.prune` does that.

        Returns:
            The output, or a dict by node id where there are several.
        """
        return _Run(self, inputs, weights).outputs()


class _Run:
    """One forward pass."""

    def __init__(self, dag: DAG, inputs: Inputs, weights: Weights) -> None:
        self.dag = dag
        plan = dag.plan
        self.values: list[Any] = [None] * plan.slots
        self.sinks: list[Sink | None] = [None] * plan.slots
        # Compilers trace plain arithmetic and fuse it; they would refuse the sinks' side effects.
        self.traced = torch.compiler.is_compiling()
        self.eager_grad = torch.is_grad_enabled() and not self.traced
        self.rows: Sequence[Tensor | None]
        self.numbers: Sequence[Sequence[float] | None]
        # Where weights are learned, their gradients are gathered; the fan is what autograd knows them by.
        self.ledger: Ledger | None = None
        self.fan: Tensor | None = None
        if self.eager_grad and isinstance(weights, Tensor) and weights.requires_grad:
            self.ledger = Ledger()
            self.fan = weights = EdgeWeights.apply(weights, self.ledger)
        self.weights = weights
        # Learned weights into a batch normalisation are its scale; a compiler fuses the products by itself.
        self.scales = isinstance(weights, Tensor) and not self.traced
        if isinstance(weights, Tensor):
            self.rows = torch.split(weights, list(plan.in_degrees))
            on_host = weights.device.type == "cpu" and not self.traced
            self.numbers = _split(weights.tolist(), plan.in_degrees) if on_host else [None] * len(plan.in_degrees)
        else:
            self.rows = [None] * len(plan.in_degrees)
            self.numbers = _split(weights, plan.in_degrees)
        given = {plan.inputs[0][0]: inputs} if isinstance(inputs, Tensor) else inputs
        for name, slot in plan.inputs:
            self.values[slot] = given[name]
        image = None if plan.reference is None else given[plan.reference]
        self.image = (1, 1) if image is None else (image.shape[-2], image.shape[-1])

    def outputs(self) -> Outputs:
        plan = self.dag.plan
        for level, dying in zip(plan.levels, plan.last_reads, strict=True):
            grouped = [step for step in level if step.shared]
            if grouped:
                self.run_grouped(grouped)
            for step in level:
                if not step.shared:
                    self.fill(step.slot, self.transform(step, self.take(step), {}))
            for slot in dying:
                self.values[slot] = None
        if len(plan.outputs) == 1:
            output: Tensor = self.values[plan.outputs[0][1]]
            return output
        return {name: self.values[slot] for name, slot in plan.outputs}

    def take(self, step: Step) -> Tensor:
        """What a step transforms: (N, C, H, W), or with a branch axis where it has siblings."""
        return self.aggregate(step) if isinstance(step, NodeStep) else self.mixed(step)

    def transform(self, step: Step, x: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """A step's output from its aggregated input and the outputs of its shared parts."""
        y: Tensor = self.module(step)(x, **parts)
        if isinstance(step, SiblingStep) and y.shape[1] != len(step.nodes) > 1:
            y = y.expand(-1, len(step.nodes), *y.shape[2:])  # nothing in it differs between siblings
        return y

    def module(self, step: Step) -> nn.Module:
        if isinstance(step, NodeStep):
            return self.dag.nodes[step.node]
        return self.dag._stacked[step.nodes] if len(step.nodes) > 1 else self.dag.nodes[step.nodes[0]]

    def run_grouped(self, steps: list[Step]) -> None:
        """Run nodes of one depth, each shared part once over the stacked batch of its members."""
        xs = {step.slot: self.take(step) for step in steps}
        members: dict[tuple[str, str], list[Step]] = {}
        for step in steps:
            for part, group in step.shared:
                members.setdefault((part, group), []).append(step)
        parts: dict[int, dict[str, Tensor]] = {step.slot: {} for step in steps}
        for (part, group), sharing in members.items():
            given = [self.module(step).part_input(part, xs[step.slot]) for step in sharing]  # type: ignore[operator]
            for step, result in zip(sharing, self.shared_part(group, sharing, given), strict=True):
                parts[step.slot][part] = result
        for step in steps:
            self.fill(step.slot, self.transform(step, xs[step.slot], parts[step.slot]))

    def shared_part(self, group: str, steps: list[Step], given: list[Tensor]) -> list[Tensor]:
        """The outputs of a shared module for each step's input, from one call."""
        module = self.dag.shared[group]
        counts = [len(step.nodes) if isinstance(step, SiblingStep) else 1 for step in steps]
        if len(steps) == 1 and counts[0] > 1 and given[0].shape[1] == 1:
            return [as_if_repeated(module, given[0].squeeze(1), counts[0]).unsqueeze(1)]
        batches = [
            x.expand(-1, count, *x.shape[2:]).flatten(0, 1) if count > 1 else x
            for x, count in zip(given, counts, strict=True)
        ]
        results = module(batches[0] if len(batches) == 1 else torch.cat(batches)).split([x.shape[0] for x in batches])
        return [y.unflatten(0, (-1, count)) if count > 1 else y for y, count in zip(results, counts, strict=True)]

    def derive(self, step: Step) -> None:
        """Make the tensors that edge ops bring."""
        for d in step.derive:
            if isinstance(d, Fan):
                self.fan_out(d)
                continue
            source, transform, size = self.values[d.source], self.dag._transforms[d.slot], self.size(d.stride)
            if source.dim() == 5:
                value = transform(source.flatten(0, 1), size).unflatten(0, source.shape[:2])
            else:
                value = transform(source, size)
            self.fill(d.slot, value)

    def fan_out(self, fan: Fan) -> None:
        """Make what several edges make from one tensor, at its resolution."""
        source, module = self.values[fan.source], self.dag._fans[fan]
        if fan in self.dag._normalising and self.scales:
            with weighted(module, self.fan_weights(fan)):
                made = module(source.unsqueeze(1))
        else:
            made = module(source.unsqueeze(1))
        for slot, value in zip(fan.slots, made.unbind(1), strict=True):
            self.fill(slot, value)

    def fan_weights(self, fan: Fan) -> Tensor:
        """(B,) the weights of a fan's edges; fixed ones get no gradient."""
        assert isinstance(self.weights, Tensor)
        weights = self.weights.index_select(0, self.dag.constant(fan.edges, self.weights.device))
        if all(fan.learnable):
            return weights
        return torch.where(self.dag.constant(fan.learnable, weights.device), weights, weights.detach())

    def mixed(self, step: SiblingStep) -> Tensor:
        """What siblings aggregate, with a branch axis; for one node alone, without it."""
        self.derive(step)
        constant = None if isinstance(self.weights, Tensor) else self.weights
        if step.unit and step.aggregate != "normalised":
            numbers = [1.0] if constant is None else [constant[row[0]] for row in step.terms[0].edges]
            if all(number == 1.0 for number in numbers):
                only: Tensor = self.values[step.terms[0].slot]
                return only.unsqueeze(1) if len(step.nodes) > 1 else only
        x: Tensor | None = None
        for term in step.terms:
            y = self.values[term.slot] if term.stacked else self.values[term.slot].unsqueeze(1)
            matrix = self.dag._matrices[term]
            if constant is not None:
                x = mix(matrix.frozen(constant, y), y, x)
            else:
                assert isinstance(self.weights, Tensor)
                x = mix(matrix.learned(self.weights), y, x)
        assert x is not None
        if len(step.nodes) == 1:
            x = x.squeeze(1)
        if step.aggregate == "normalised":
            x = self.module(step).aggregate(x)  # type: ignore[operator]
        return x

    def aggregate(self, step: NodeStep) -> Tensor:
        self.derive(step)
        if step.feature is not None:
            feature: Tensor = self.values[step.sources[0]][step.feature]
            return feature
        ys = [self.values[slot] for slot in step.sources]
        row, numbers = self.rows[step.row], self.numbers[step.row]
        if step.unit and (row is not None or numbers == [1.0]):
            return ys[0]  # type: ignore[no-any-return]
        if step.aggregate == "concat":
            return torch.cat(self.scaled(ys, row, numbers), 1)
        x = self.resized_sum(step.groups, [self.group_sum(step, group, ys, row, numbers) for group in step.groups])
        if step.aggregate == "normalised":
            x = self.dag.nodes[step.node].aggregate(x)  # type: ignore[operator]
        return x

    def resized_sum(self, groups: Sequence[Group], sums: Sequence[Tensor]) -> Tensor:
        """The sums of all groups, the coarsest first, added up at the node's own size.

        A sum goes to the size of the next group, and on with that one's, where nothing is lost on the way:
        most of the resizing is then done where tensors are small.
        """
        done: list[Tensor] = []
        waiting = sums[0]
        for coarse, fine, part in zip(groups, groups[1:], sums[1:], strict=False):
            if self.passes_through(coarse, waiting, fine, part):
                waiting = part + self.resized(coarse, waiting, part.shape[-2:])
            else:
                done.append(self.resized(coarse, waiting))
                waiting = part
        return _sum([*done, self.resized(groups[-1], waiting)])

    def passes_through(self, coarse: Group, x: Tensor, fine: Group, y: Tensor) -> bool:
        """Whether resizing ``x`` to the size of ``y``, and on with it, is the same as resizing it at once.

        So it is with a constant; and with a linear interpolation whose points are all points of the finer grid,
        for it is linear between those too.
        """
        if coarse.resize is None:  # both are of the node's own size
            return True
        if self.traced or fine.resize not in (None, coarse.resize):  # a compiler may not know the sizes yet
            return False
        rule = coarse.resize
        lengths = tuple(zip(x.shape[-2:], y.shape[-2:], strict=True))
        grid = (
            rule.mode == "bilinear" and rule.align_corners and all(m == 1 or (n - 1) % (m - 1) == 0 for m, n in lengths)
        )
        return grid or coarse.coarseness == math.inf

    def resized(self, group: Group, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The sum of a group at another size; None: the node's own."""
        if group.resize is None:
            return x
        assert group.shapes is not None
        y: Tensor = self.dag._resizes[group](x, size or self.size(group.shapes[1].stride))
        return y

    def group_sum(
        self,
        step: NodeStep,
        group: Group,
        ys: list[Tensor],
        row: Tensor | None,
        numbers: Sequence[float] | None,
    ) -> Tensor:
        """The weighted sum of some in-edges."""
        learnable: Sequence[bool] = step.learnable
        places = group.places
        if group.normalised and self.scales:
            return _sum([ys[i] for i in places])
        slots: Sequence[int] = step.sources
        if len(places) < len(ys):
            ys, slots = [ys[i] for i in places], [slots[i] for i in places]
            learnable = [learnable[i] for i in places]
            row = None if row is None else self.entries(row, group)
            numbers = None if numbers is None else [numbers[i] for i in places]
        if self.traced:
            return _traced_sum(ys, row, numbers, learnable)
        if not self.eager_grad:
            return weighted_sum(ys, row, numbers)
        first = self.dag.plan.first_edges[step.row]
        edges = [first + place for place in places]
        sinks = [self.sinks[slot] for slot in slots]
        x: Tensor = WeightedSum.apply(row, numbers, learnable, sinks, self.ledger, edges, *ys)
        return x

    def entries(self, row: Tensor, group: Group) -> Tensor:
        """The weights of a group's in-edges."""
        if self.traced:
            return torch.stack([row[place] for place in group.places])
        return row.index_select(0, self.dag.constant(group.places, row.device))

    def scaled(self, ys: list[Tensor], row: Tensor | None, numbers: Sequence[float] | None) -> list[Tensor]:
        """The sources of a concat, whose edges are never learnable."""
        if numbers is not None:
            return [y if number == 1.0 else y * number for y, number in zip(ys, numbers, strict=True)]
        assert row is not None
        return [y * weight.to(y.dtype) for y, weight in zip(ys, row.detach().unbind(), strict=True)]

    def fill(self, slot: int, value: Any) -> None:
        if self.eager_grad and self.dag.plan.shared_reads[slot] and value.requires_grad:
            sink = Sink()
            fan = self.fan if self.dag.plan.learned_reads[slot] else None
            value = FanOut.apply(value, sink, fan, self.ledger)
            self.sinks[slot] = sink
        self.values[slot] = value

    def size(self, stride: Any) -> tuple[Any, Any]:
        if not isinstance(stride, int):
            return (1, 1)
        return ((self.image[0] + stride - 1) // stride, (self.image[1] + stride - 1) // stride)


def _split(numbers: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    rows, start = [], 0
    for count in counts:
        rows.append(list(numbers[start : start + count]))
        start += count
    return rows


def _traced_sum(
    ys: list[Tensor], row: Tensor | None, numbers: Sequence[float] | None, learnable: Sequence[bool]
) -> Tensor:
    """``sum_k w_k y_k`` as plain arithmetic."""
    weights: list[Any]
    if numbers is not None:
        weights = list(numbers)
    else:
        assert row is not None
        weights = [w if wanted else w.detach() for w, wanted in zip(row.unbind(), learnable, strict=True)]
        weights = [w.to(y.dtype) for w, y in zip(weights, ys, strict=True)]
    active = [(y, w) for y, w in zip(ys, weights, strict=True) if not (isinstance(w, float) and w == 0.0)]
    if not active:
        return torch.zeros_like(ys[0])
    common = active[0][1]
    if isinstance(common, float) and all(weight == common for _, weight in active):
        total = _sum([y for y, _ in active])
        return total if common == 1.0 else total * common
    return _sum([y if isinstance(w, float) and w == 1.0 else y * w for y, w in active])


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
