"""Whether data can go into a graph."""

from __future__ import annotations

from topolearn.data import DataInfo
from topolearn.errors import DataError
from topolearn.graph import Graph


def check_fits(graph: Graph, info: DataInfo) -> None:
    """Raise where the data cannot go into the graph: another task, other inputs."""
    if info.task != graph.task:
        raise DataError(
            f"data '{info.name}' is for {info.task}, but graph '{graph.name}' is for {graph.task}; use other data, or"
            " change 'task' in the graph"
        )
    if len(graph.inputs) > 1:
        raise DataError(
            f"graph '{graph.name}' has the inputs {', '.join(graph.inputs)}, but data have one; train it in a loop of"
            " your own, with topolearn.optimizers"
        )
    size = graph.input_size(graph.inputs[0])
    if len(size) != 3:
        raise DataError(
            f"data '{info.name}' has images, but input '{graph.inputs[0]}' of graph '{graph.name}' takes vectors; train"
            " it in a loop of your own, with topolearn.optimizers"
        )
    if size[0] != info.size[0]:
        raise DataError(
            f"data '{info.name}' has {info.size[0]} channels, but input '{graph.inputs[0]}' of graph"
            f" '{graph.name}' takes {size[0]}; change 'inputs' in the graph"
        )
