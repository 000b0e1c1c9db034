"""Groups the pieces of a network into nodes: blocks that could be skipped, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from topolearn.lifting.structure import Piece, Pieces, Sum
from topolearn.tracing.opened import Opened
from topolearn.tracing.values import Ref, leaves, refs


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of pieces that becomes one node.

    Attributes:
        entry: Number of the operation that it reads.
        exit: Number of the operation whose output is its.
        can_go: Whether its input could take the place of its output.
    """

    entry: int
    exit: int
    can_go: bool = False


def stretches(opened: Opened, chain: Pieces, *, outermost: bool) -> Iterator[Stretch | Sum]:
    """Return a chain with its pieces grouped.

    Args:
        opened: The network.
        chain: Pieces and sums, in order.
        outermost: Whether blocks that could be skipped have a stretch of their own; inside of a branch, which can go as
            a whole, they have none.
    """
    run: list[Piece] = []
    for part in chain:
        if isinstance(part, Piece):
            run.append(part)
            continue
        yield from _grouped(opened, run, outermost=outermost)
        run = []
        yield part
    yield from _grouped(opened, run, outermost=outermost)


def _grouped(opened: Opened, run: Sequence[Piece], *, outermost: bool) -> Iterator[Stretch]:
    begun = 0
    for start, stop in sorted(_blocks(opened, run)) if outermost else ():
        if begun < start:
            yield Stretch(run[begun].entry, run[start - 1].exit)
        yield Stretch(run[start].entry, run[stop - 1].exit, can_go=True)
        begun = stop
    if begun < len(run):
        yield Stretch(run[begun].entry, run[-1].exit)


def _blocks(opened: Opened, run: Sequence[Piece]) -> list[tuple[int, int]]:
    """Return where blocks that could be skipped start and stop: their input and their output have one shape.

    They are modules that were marked, and the innermost modules that are more than one layer: made of other modules, or
    with several layers with parameters. Elsewhere they are a layer with what follows it, such as a normalisation and an
    activation.
    """
    layers = [bool(opened.macs(piece.entry, piece.exit) and opened.params(piece.entry, piece.exit)) for piece in run]
    found: list[tuple[int, int]] = []

    def is_free(start: int, stop: int) -> bool:
        return all(stop <= other_start or other_stop <= start for other_start, other_stop in found)

    for start, piece in enumerate(run):
        call = opened.flow.trace.calls[opened.flow.trace.ops[piece.exit].call]
        if call.path in opened.blocks and opened.layout(piece.entry) == opened.layout(piece.exit):
            found.append((start, start + 1))
    for start, stop, is_made_of_others in sorted(_modules(opened, run), key=lambda block: block[1] - block[0]):
        same = opened.layout(run[start].entry) == opened.layout(run[stop - 1].exit)
        if same and sum(layers[start:stop]) > (not is_made_of_others) and is_free(start, stop):
            found.append((start, stop))
    for start in (index for index, is_layer in enumerate(layers) if is_layer):
        end = next((index for index in range(start + 1, len(run)) if layers[index]), len(run))
        stops = [
            index + 1
            for index in range(start, end)
            if opened.layout(run[index].exit) == opened.layout(run[start].entry)
        ]
        found += [(start, stop) for stop in reversed(stops) if is_free(start, stop)][:1]
    return found


def _modules(opened: Opened, run: Sequence[Piece]) -> Iterator[tuple[int, int, bool]]:
    """Return where the modules start and stop that are exactly some pieces of a run, and which hold other modules."""
    starts = {piece.entry: index for index, piece in enumerate(run)}
    stops = {piece.exit: index + 1 for index, piece in enumerate(run)}
    head, calls = opened.flow.head, opened.flow.trace.calls
    parents = {call.parent for call in calls}
    for index, call in enumerate(calls[1:], start=1):
        takes = set(refs((call.args, dict(call.kwargs))))
        gives = [leaf for _, leaf in leaves(call.output) if isinstance(leaf, Ref)]
        if len(takes) == 1 and len(gives) == 1:
            start, stop = starts.get(head[takes.pop().op]), stops.get(head[gives[0].op])
            if start is not None and stop is not None and start < stop:
                yield start, stop, index in parents
