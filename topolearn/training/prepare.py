"""The checks of ``fit`` before training: learner, data, plan and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from topolearn._version import __version__
from topolearn.data.for_graph import read_data
from topolearn.device import find_device, usual_precision
from topolearn.errors import DataError, OptionError, suggest
from topolearn.format.ranges import RangeError, expand
from topolearn.graph import Graph
from topolearn.graph.sequences import check_sequences
from topolearn.learners import EdgeLearner
from topolearn.recipes import Recipe, TrainOptions
from topolearn.runs.config import NEW_LAYER
from topolearn.runs.folder import is_finished
from topolearn.runs.same_data import data_settings
from topolearn.runs.same_run import holds_this_run
from topolearn.samples import Data, DataInfo
from topolearn.tasks import check_fits, task_of
from topolearn.training.given import about_given, seen_by_given
from topolearn.training.phases import Scheduled, schedule


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and can start.

    Attributes:
        recipe: The recipe, with ``auto`` replaced by a device and a precision.
        learner: The learner, made for the graph.
        data: The data as the graph takes them, on the CPU.
        plan: Phases and epochs.
        config: The content of config.yaml.
        about: What is known of the given network.
    """

    recipe: Recipe
    learner: EdgeLearner
    data: Data
    plan: tuple[Scheduled, ...]
    config: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph to search."""
        return self.recipe.graph

    @property
    def device(self) -> torch.device:
        """The device that the run uses."""
        device: torch.device = self.recipe.device
        return device

    @property
    def options(self) -> TrainOptions:
        """The training options."""
        return self.recipe.training

    @property
    def searches(self) -> bool:
        """Whether the plan has a search phase, in which the learner decides about edges."""
        return any(item.phase.search for item in self.plan)

    def is_finished(self) -> bool:
        """Whether the recipe's folder already holds this run, finished.

        Raises:
            CheckpointError: The folder holds another run, or it holds this one and the recipe does not resume it.
        """
        folder = self.recipe.out
        if folder is None:
            return False
        resume = self.recipe.resume
        return holds_this_run(folder, self.graph, self.config, self.learner, resume=resume) and is_finished(folder)


def prepare(recipe: Recipe) -> Prepared:
    """Check everything that a run needs, read its data, and make its learner and plan.

    Raises:
        TopolearnError: One of its subclasses, for anything that cannot be used.
    """
    device = find_device(recipe.device)
    recipe = recipe.changed(device=device, precision=usual_precision(recipe.precision, device))
    check_sequences(recipe.graph, own_loss=recipe.loss is not None)
    learner = recipe.make_learner()
    plan = schedule(learner, recipe.epochs, recipe.training.phases)
    _check_node_lr(recipe.graph, recipe.training.node_lr)
    about = about_given(recipe)
    data = seen_by_given(_read(recipe), about, recipe.training)
    data.notes = (*data.notes, *_other_size(recipe.graph, data.info))
    return Prepared(recipe, learner, data, plan, _config(recipe, learner, data, about), about)


def _read(recipe: Recipe) -> Data:
    """Read the data and check that they fit the graph and its task."""
    graph = recipe.graph
    try:
        data = read_data(graph, recipe.chosen_data, recipe.data_root, recipe.training, own_loss=recipe.loss is not None)
        check_fits(graph, data.info)
        if recipe.loss is None:
            task_of(data.info.task).check_outputs(graph, data.info)
    except DataError as error:
        if recipe.names_data:
            raise
        raise DataError(
            f"graph '{graph.name}' names no data; say what to train on with --data (the default does not fit:"
            f" {error.message})"
        ) from None
    return data


def _other_size(graph: Graph, info: DataInfo) -> tuple[str, ...]:
    """Return a note if the images that the data give whole have another size than the graph's input."""
    if len(info.size) != 3 or info.inputs or info.kind.is_dense or info.size[1:] == graph.image:
        return ()
    theirs, ours = (f"{height}x{width}" for height, width in (info.size[1:], graph.image))
    return (
        f"the images are {theirs}, but the graph's input is {ours}, for which costs and budgets are computed; change it"
        f" to '{graph.inputs[0]}: {list(info.size)}', or lift the network with that size",
    )


def _check_node_lr(graph: Graph, node_lr: Iterable[str]) -> None:
    """Raise an OptionError unless every name is a node of the graph, or a range of nodes."""
    for word in node_lr:
        try:
            names = expand(word)
        except RangeError as error:
            raise OptionError(f"'node_lr': {error}") from None
        for name in names:
            if name not in graph.nodes:
                raise OptionError(
                    f"'node_lr' names '{name}', which graph '{graph.name}' does not have{suggest(name, graph.nodes)}"
                )


def _config(recipe: Recipe, learner: EdgeLearner, data: Data, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.yaml."""
    graph = recipe.graph
    return {
        "topolearn": __version__,
        "graph": graph.name,
        "task": graph.task,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "lr": recipe.lr,
        "seed": recipe.seed,
        "precision": recipe.precision,
        "learner": learner.learner_name,
        "learner_options": learner.options.model_dump(),
        **data_settings(data),
        "input_size": {name: graph.input_rule(name).spec for name in graph.inputs},
        "training": recipe.training.model_dump(),
        **({NEW_LAYER: about[NEW_LAYER]} if NEW_LAYER in about else {}),
    }
