"""What a finished run leaves behind, read back without any code of the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.compiler import Network
from topolearn.compiler import compile as build
from topolearn.errors import CheckpointError, FormatError, Location
from topolearn.format import load_graph
from topolearn.format.tree import parse, read_text
from topolearn.format.writer import scalar
from topolearn.options import tuples
from topolearn.runs import folder as checkpoint


def load_model(run_dir: str | Path) -> Network:
    """The trained network of a finished run, in eval mode.

    It needs graph.yaml and weights.safetensors; what config.yaml says of the data goes into ``about``.

    Raises:
        CheckpointError: They are missing, damaged, or do not fit each other.
    """
    folder = Path(run_dir)
    if not (folder / checkpoint.GRAPH).is_file():
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {folder}; name the folder of a finished run")
        state = "is not finished; go on with --resume" if (folder / checkpoint.CONFIG).is_file() else "holds no run"
        raise CheckpointError(f"{folder} {state}")
    graph = load_graph(folder / checkpoint.GRAPH)
    net = build(graph)
    checkpoint.load_into(net, checkpoint.load_tensors(folder / checkpoint.WEIGHTS), folder / checkpoint.WEIGHTS)
    if (folder / checkpoint.CONFIG).is_file():
        net.about = about_data(read_config(folder / checkpoint.CONFIG))
    return net.eval()


def about_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a server must know of the data a run was trained on; ``windows`` where it was evaluated in some."""
    about = {key: list(config[key]) for key in ("mean", "std", "classes")}
    training = config.get("training", {})
    if training.get("evaluation") == "sliding":
        size = next(iter(config["input_size"].values()))
        about["windows"] = list(training.get("crop") or size[1:])
    return about


def write_config(config: Mapping[str, Any]) -> str:
    """config.yaml: one line per key."""
    return "".join(f"{key}: {scalar(value)}\n" for key, value in config.items())


_NEEDED = ("graph", "task", "learner", "learner_options", "data", "input_size", "mean", "std", "classes", "batch_size")


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml back.

    Raises:
        CheckpointError: Missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError("no such file; is this the folder of a run?", Location(str(path)))
    try:
        config: dict[str, Any] = tuples(parse(read_text(path), str(path)).root.plain())
    except FormatError as error:
        raise CheckpointError(error.message, error.location) from None
    for key in _NEEDED:
        if key not in config:
            raise CheckpointError(f"has no '{key}'; is this the folder of a run?", Location(str(path)))
    return config
