"""The trained network of a finished run, read back without any code of the search."""

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
    """The trained network of a finished run, in eval mode.

    It needs graph.yaml and weights.safetensors; what config.yaml says of the data goes into ``about``.

    Raises:
        CheckpointError: They are missing, damaged, or do not fit each other.
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
