"""Reading what a run learned from its folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from topolearn.errors import CheckpointError
from topolearn.format import load_graph
from topolearn.graph import Graph
from topolearn.graph.price import Alive
from topolearn.learners import make_learner
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG, GRAPH, SEARCH_STATE, SEARCHED
from topolearn.runs.tensor_files import load_into, load_tensors


@dataclass(frozen=True)
class Learned:
    """The result of a search: the graphs, and a value per edge.

    Attributes:
        searched: The graph that was searched.
        graph: The graph that is left.
        values: (E,) the learner's value of each edge: mask, weight or gate.
        kept: (E,) whether each edge of ``searched`` is left.
        learner: Name of the learner.
    """

    searched: Graph
    graph: Graph
    values: tuple[float, ...]
    kept: tuple[bool, ...]
    learner: str

    @property
    def title(self) -> str:
        """Title of the pictures."""
        return f"{self.searched.name}: {self.learner}"


def read_learned(run_dir: Path | str) -> Learned:
    """Read the learner's value of every edge at the end of the search of a finished run.

    The values are in ``search.safetensors``; the learner ``fixed`` learns nothing and needs no such file.
    Nothing is unpickled.

    Raises:
        CheckpointError: It is not the folder of a finished run, or the state of its search is missing.
    """
    folder = Path(run_dir)
    config = read_config(folder / CONFIG)
    for name in (GRAPH, SEARCHED):
        if not (folder / name).is_file():
            raise CheckpointError(f"the run in {folder} has no {name}: it is not finished; go on with --resume")
    searched, graph = load_graph(folder / SEARCHED), load_graph(folder / GRAPH)
    learner = make_learner(config["learner"], searched, config["learner_options"])
    if learner.state_dict():
        path = folder / SEARCH_STATE
        if not path.is_file():
            raise CheckpointError(
                f"the run in {folder} has no {SEARCH_STATE}, which holds the learner's values; name the"
                " folder of the run that searched"
            )
        start = "learner."
        tensors = load_tensors(path)
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        load_into(learner, own, path)
    values = learner.eval().edge_values().detach().tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself has warned that a path was restored
        left = set(Alive.of(searched, learner.topology().keep).edges)
    kept = tuple(i in left for i in range(len(values)))
    return Learned(searched, graph, tuple(values), kept, config["learner"])
