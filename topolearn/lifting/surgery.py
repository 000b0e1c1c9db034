"""Takes removed branches and blocks out of a network's modules, by what its forward pass does with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from topolearn.lifting.stand_ins import Skip, Zeros, keep_settings
from topolearn.lifting.structure import Pieces, Sum, find_chain
from topolearn.tracing.flow import Flow
from topolearn.tracing.opened import Opened
from topolearn.tracing.record import Call
from topolearn.tracing.values import Ref, Unknown, leaves, refs

RELUS = (F.relu, torch.relu, torch.Tensor.relu)
"""The functions that compute a relu."""
_KEEP_SIGN = ("dropout", "pool")
"""Parts of the names of functions whose outputs are not negative if their inputs are not."""


@dataclass
class Cut:
    """What is left of a network's data flow once some of its operations are removed.

    Attributes:
        opened: The network.
        model: The network's modules.
        branches: Operations of the removed branches: an addition of one gives its other term.
        bypassed: Last operation of a removed block -> the operation that gives the block's input.
    """

    opened: Opened
    model: nn.Module
    branches: Collection[int]
    bypassed: Mapping[int, int]
    _same: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flow = self.opened.flow
        for number in range(1, len(flow.trace.ops)):
            same = self.bypassed.get(number, self._passes_on(flow, number))
            if same is not None:
                self._same[number] = self._same.get(same, same)

    def _passes_on(self, flow: Flow, number: int) -> int | None:
        """Return the operation whose output an operation passes on unchanged, now; None if it computes something."""
        if flow.members[number] != [number]:  # a module that must stay whole
            return None
        terms = [term for term in flow.added(number) if not self._is_zero(term)]
        if len(terms) == 1 and len(flow.added(number)) == 2:
            return terms[0]
        op = flow.trace.ops[number]
        path = flow.trace.calls[op.call].path
        is_identity = op.function is None and type(self.model.get_submodule(path)) is nn.Identity
        if len(flow.sources[number]) == 1 and (is_identity or op.function in RELUS):
            (source,) = flow.sources[number]
            if is_identity or self._is_never_negative(source):
                return source
        return None

    def _is_zero(self, number: int) -> bool:
        sources = self.opened.flow.sources[number]
        return number in self.branches or (bool(sources) and all(map(self._is_zero, sources)))

    def _is_never_negative(self, number: int) -> bool:
        number = self._same.get(number, number)
        op, sources = self.opened.flow.trace.ops[number], self.opened.flow.sources[number]
        if op.function in RELUS:
            return True
        name = op.name.rpartition(".")[2]
        return any(word in name for word in _KEEP_SIGN) and len(sources) == 1 and self._is_never_negative(sources[0])

    def needed(self) -> set[int]:
        """Return the operations that the output still depends on."""
        flow = self.opened.flow
        output = self._same.get(self.opened.output, self.opened.output)
        found, waiting = {output}, [output]
        while waiting:
            for source in flow.sources[waiting.pop()]:
                source = self._same.get(source, source)
                if source not in found:
                    found.add(source)
                    waiting.append(source)
        return {member for number in found for member in flow.members[number]}

    def passed_on(self, call: Call) -> tuple[Any, ...] | None:
        """Return the place of the argument that a module returns, now; None if it returns none of them."""
        head = self.opened.flow.head
        gives = [leaf for _, leaf in leaves(call.output)]
        if len(gives) != 1 or not isinstance(gives[0], Ref):
            return None
        after = head[gives[0].op]
        for place, leaf in leaves((call.args, dict(call.kwargs))):
            if isinstance(leaf, Ref):
                before = head[leaf.op]
                if self._same.get(before, before) == self._same.get(after, after):
                    return place
        return None

    def gives(self, call: Call) -> set[int]:
        """Return the operations whose outputs a module returns, now."""
        heads = [self.opened.flow.head[ref.op] for ref in refs(call.output)]
        return {self._same.get(number, number) for number in heads}


def remove(opened: Opened, model: nn.Module, branches: Collection[int], bypassed: Mapping[int, int]) -> None:
    """Replace the modules of removed branches and blocks, in place.

    A module that only passes its input on becomes an ``nn.Identity``. Elsewhere, modules that only a removed branch
    needs give zeros.

    Args:
        opened: The network.
        model: The network's modules, which are changed.
        branches: Operations of removed branches.
        bypassed: Last operation of a removed block -> the operation that gives the block's input.
    """
    flow, calls = opened.flow, opened.flow.trace.calls
    cut = Cut(opened, model, branches, bypassed)
    needed = cut.needed()
    before = {member for number in flow.between(0, opened.output) for member in flow.members[number]}
    gone = before - needed
    pass_on: set[int] = set()
    for exit, entry in bypassed.items():
        pass_on |= flow.inside(entry, exit) - _to_be_zero(flow, find_chain(flow, entry, exit))
    skipped: dict[int, tuple[Any, ...]] = {}
    idle = set()
    for index, call in enumerate(calls):
        body = set(range(call.start, call.stop))
        if call.path and body & gone:
            place = cut.passed_on(call)
            if place is None and call.start in pass_on and not body & needed:
                place = _like_output(opened, call, pass_on | set(bypassed.values()))
            if place is not None:
                skipped[index] = place
            elif not body & needed and not cut.gives(call) & needed:
                idle.add(index)
    of_path: dict[str, set[int]] = defaultdict(set)
    for index, call in enumerate(calls):
        of_path[call.path].add(index)
    names: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        names[id(module)].append(path)
    replaced: set[int | None] = set()
    for index, call in enumerate(calls):
        if call.parent in replaced:
            replaced.add(index)
        elif of_path[call.path] <= idle.union(skipped) and (index in skipped or index in idle):
            module = model.get_submodule(call.path)
            if isinstance(module, nn.TransformerEncoderLayer):
                continue  # an encoder reads settings of its first layer's parts
            stand_in = _stand_in(opened, module, call, skipped.get(index))
            if stand_in is not None:
                keep_settings(module, stand_in)
                replaced.add(index)
                for path in names[id(module)]:
                    model.set_submodule(path, stand_in)
                    around = model.get_submodule(path.rpartition(".")[0])
                    if isinstance(around, nn.TransformerEncoderLayer):
                        # Its fast path reads all weights. It is only for relu and gelu, and this says: another one.
                        around.activation_relu_or_gelu = 0


def _like_output(opened: Opened, call: Call, allowed: Collection[int]) -> tuple[Any, ...] | None:
    """Return the place of a module's argument that has the shape of its output, to be passed on; None if none has."""
    made = list(refs(call.output))
    if len(made) != 1 or made[0].place:
        return None
    for place, leaf in leaves((call.args, dict(call.kwargs))):
        if not isinstance(leaf, Ref) or leaf.place or leaf.op not in allowed:
            continue
        if opened.layout(leaf.op) == opened.layout(made[0].op):
            return place
    return None


def _to_be_zero(flow: Flow, chain: Pieces) -> set[int]:
    """Return the operations of a block that must give zeros, so that its additions pass on what the block is given."""
    found: set[int] = set()
    for part in chain:
        if isinstance(part, Sum):
            stays = () if () in part.terms else part.terms[0]
            zero = [each for term in part.terms if term != stays for each in term]
            found |= set().union(*(flow.inside(each.entry, each.exit) for each in zero))
            found |= _to_be_zero(flow, stays)
    return found


def _stand_in(opened: Opened, module: nn.Module, call: Call, passes_on: tuple[Any, ...] | None) -> nn.Module | None:
    """Return what takes the place of a module; None if there is nothing that could.

    Args:
        opened: The network.
        module: The module.
        call: A call of it.
        passes_on: Place of the argument that it passes on; None if it gives zeros.
    """
    if any(isinstance(leaf, Unknown) for _, leaf in leaves(call.output)):
        return None
    if passes_on == (0, 0) and len(call.args) == 1 and not call.kwargs:
        return nn.Identity()
    return Zeros(module, call, opened.flow.trace.ops) if passes_on is None else Skip(module, passes_on)
