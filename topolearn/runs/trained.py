"""Loading the trained network of a finished run, without importing the search."""

from __future__ import annotations

from pathlib import Path

from topolearn.compiler import Network
from topolearn.compiler import compile as build
from topolearn.errors import CheckpointError
from topolearn.format import load_graph
from topolearn.runs.config import about_data, read_config
from topolearn.runs.folder import CONFIG, GRAPH, WEIGHTS
from topolearn.runs.tensor_files import load_into, load_tensors


def load_model(run_dir: str | Path) -> Network:
    """Load the trained network of a finished run, in eval mode.

    It needs graph.yaml and weights.safetensors. If there is a config.yaml, its data settings go into ``about``.

    Raises:
        CheckpointError: A file is missing or damaged, or the two do not fit each other.
    """
    folder = Path(run_dir)
    if not (folder / GRAPH).is_file():
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; name the folder of a finished run")
        state = "is not finished; go on with --resume" if (folder / CONFIG).is_file() else "holds no run"
        raise CheckpointError(f"{folder} {state}")
    graph = load_graph(folder / GRAPH)
    net = build(graph)
    load_into(net, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    if (folder / CONFIG).is_file():
        net.about = about_data(read_config(folder / CONFIG))
    return net.eval()
