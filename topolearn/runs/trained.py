"""Loading the trained network of a finished run, without importing the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from topolearn.compiler import Network, with_networks
from topolearn.compiler import compile as build
from topolearn.compiler.network import unwrapped
from topolearn.errors import CheckpointError
from topolearn.format import load_graph
from topolearn.runs.config import about_data, read_config
from topolearn.runs.folder import CONFIG, GRAPH, WEIGHTS
from topolearn.runs.tensor_files import load_into, load_tensors


def load_model(run_dir: str | Path, sources: Mapping[str, nn.Module] | None = None) -> Network:
    """Load the trained network of a finished run, in eval mode.

    It needs graph.yaml and weights.safetensors. If there is a config.yaml, its data settings go into ``about``.

    Args:
        run_dir: Folder of the run.
        sources: For a run that started from a lifted network of your own class: the name under ``sources`` in
            graph.yaml (``net``) -> such a network, with any weights.

    Raises:
        CheckpointError: A file is missing or damaged, or the two do not fit each other.
        GraphError: The graph has parts of a network that is not given, or is another one.
    """
    folder = Path(run_dir)
    if not (folder / GRAPH).is_file():
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; name the folder of a finished run")
        state = "is not finished; go on with --resume" if (folder / CONFIG).is_file() else "holds no run"
        raise CheckpointError(f"{folder} {state}")
    graph = with_networks(load_graph(folder / GRAPH), {name: unwrapped(net) for name, net in (sources or {}).items()})
    net = build(graph)
    load_into(net, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    if (folder / CONFIG).is_file():
        net.about = about_data(read_config(folder / CONFIG))
    return net.eval()
