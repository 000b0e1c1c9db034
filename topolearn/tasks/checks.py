"""Whether data fit the task, the inputs and the outputs of a graph."""

from __future__ import annotations

from topolearn.errors import DataError
from topolearn.graph import Graph
from topolearn.samples import DataInfo
from topolearn.tasks.base import OWN_DATA
from topolearn.tasks.table import task_of


def check_fits(graph: Graph, info: DataInfo) -> None:
    """Raise a DataError if the data do not fit the task or the inputs of the graph."""
    if info.task != graph.task:
        raise DataError(
            f"data '{info.name}' is for {info.task}, but graph '{graph.name}' is for {graph.task}; use other data, or"
            " change 'task' in the graph"
        )
    if info.inputs == graph.inputs:
        return  # the reader has already compared the items with the inputs
    if len(graph.inputs) > 1:
        raise DataError(
            f"graph '{graph.name}' has the inputs {', '.join(graph.inputs)}, but data '{info.name}' have one;"
            f" {OWN_DATA}"
        )
    task_of(info.task).check_inputs(graph, info)
