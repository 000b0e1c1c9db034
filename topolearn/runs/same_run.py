"""Check that a folder holds the requested run, and not another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.errors import CheckpointError
from topolearn.format import load_graph
from topolearn.format.tree import parse
from topolearn.format.writer import scalar
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner
from topolearn.recipes.train_options import TrainOptions, as_phase
from topolearn.runs.config import read_config, write_config
from topolearn.runs.folder import CONFIG, SEARCHED, check_free, holds_run
from topolearn.runs.same_data import content_differs

_MAY_CHANGE = ("training.workers", "training.checkpoint_steps")
"""Settings that do not affect the result of a run."""


def compare_config(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, within: str = "") -> None:
    """Raise a CheckpointError if a run's settings differ from those it began with."""
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


def holds_this_run(
    folder: Path, graph: Graph, config: Mapping[str, Any], learner: EdgeLearner, *, resume: bool
) -> bool:
    """Whether ``folder`` holds this run; another run is an error.

    Args:
        folder: Any folder; it need not exist.
        graph: The graph to search.
        config: The settings.
        learner: The learner.
        resume: Whether the folder may hold a run.

    Raises:
        CheckpointError: The folder holds another run, or a run although ``resume`` is false.
        OptionError: The folder holds other files.
    """
    if not holds_run(folder):
        check_free(folder)
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
    was, now = _normal(began_with, learner), _normal(config, learner)
    compare_config({"training": was["training"]}, {"training": now["training"]}, folder)  # some choose among the data
    differs = content_differs(began_with, config)
    if differs is not None:
        raise CheckpointError(
            f"the run in {folder} began with other data: '{config.get('data_path', config['data'])}' has {differs};"
            " resume it with the same data, or choose another folder"
        )
    if "train" in (began_with.get("content") or {}):
        was["data"] = now["data"]  # their content is known, so their name does not matter
    compare_config(was, now, folder)
    return True


def _normal(config: Mapping[str, Any], learner: EdgeLearner) -> dict[str, Any]:
    """Return a config as its file reads back, without the library's version and the data's content and path.

    An option that the library did not have when the run began gets today's default.
    """
    defaults: dict[str, dict[str, Any]] = {"training": TrainOptions().model_dump()}
    if config["learner"] == learner.learner_name:
        known = {name: field for name, field in type(learner.options).model_fields.items() if not field.is_required()}
        defaults["learner_options"] = {
            name: field.get_default(call_default_factory=True) for name, field in known.items()
        }
    complete = dict(config)
    for key, usual in defaults.items():
        given = config.get(key)
        complete[key] = {**usual, **(given if isinstance(given, Mapping) else {})}
    plain = parse(write_config(complete), "config").root.plain()
    return {key: value for key, value in plain.items() if key not in ("topolearn", "content", "data_path")}
