"""config.yaml: the settings of a run, written, read back and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.errors import CheckpointError, FormatError, Location
from topolearn.format import load_graph
from topolearn.format.tree import parse, read_text
from topolearn.format.writer import scalar
from topolearn.graph import Graph
from topolearn.options import tuples
from topolearn.recipes.train_options import TrainOptions, as_phase
from topolearn.runs.folder import CONFIG, SEARCHED, holds_run


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


_MAY_CHANGE = ("training.workers", "training.checkpoint_steps")
"""Settings without a say in what comes out of a run."""


def compare_config(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, within: str = "") -> None:
    """Raise where a run's settings differ from those it began with."""
    for key in {**old, **new}:
        name, was, wanted = f"{within}{key}", old.get(key), new.get(key)
        if within == "training.phases.":  # a number is short for the share
            was, wanted = as_phase(was), as_phase(wanted)
        if isinstance(was, Mapping) and isinstance(wanted, Mapping):
            compare_config(was, wanted, folder, f"{name}.")
        elif was != wanted and name not in _MAY_CHANGE:
            raise CheckpointError(
                f"the run in {folder} began with {name} {scalar(was)}, not {scalar(wanted)};"
                " resume it with the same settings, or choose another folder"
            )


def holds_this_run(folder: Path, graph: Graph, config: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether ``folder`` holds a run, which is then this one.

    Args:
        folder: Any folder; it need not be there.
        graph: The graph that is to be searched.
        config: The settings.
        resume: Whether a run may be there.

    Raises:
        CheckpointError: A run that is not to be resumed, or another one.
    """
    if not holds_run(folder):
        return False
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; give --resume, or choose another folder with --out")
    began_with = read_config(folder / CONFIG)
    before = load_graph(folder / SEARCHED)
    if before != graph:
        raise CheckpointError(
            f"the run in {folder} searches graph '{before.name}', which is not this graph '{graph.name}'; choose"
            " another folder with --out"
        )
    compare_config(_normal(began_with), _normal(config), folder)
    return True


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it reads back from its file, without the library's version."""
    # A run that was begun before the library had an option has what is its default now.
    given = config.get("training")
    training = {**TrainOptions().model_dump(), **(given if isinstance(given, Mapping) else {})}
    plain = parse(write_config({**config, "training": training}), "config").root.plain()
    return {key: value for key, value in plain.items() if key != "topolearn"}
