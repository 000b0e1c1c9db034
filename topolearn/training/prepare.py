"""What ``fit`` checks before anything is trained: the graph, the learner, the data and the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topolearn._version import __version__
from topolearn.compiler import Network
from topolearn.data import Data, DataInfo
from topolearn.data.for_graph import read_data
from topolearn.device import find_device, usual_precision
from topolearn.errors import CheckpointError, DataError, OptionError, shown, suggest
from topolearn.format import load_graph
from topolearn.format.ranges import RangeError, expand
from topolearn.format.tree import parse
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, learner_class, make_learner
from topolearn.options import validate
from topolearn.recipes.recipe import (
    BUDGETS,
    OTHER,
    LearnerSpec,
    Settings,
    compare_config,
    is_recipe,
    open_recipe,
    read_recipe,
    recipe_graph,
)
from topolearn.recipes.train_options import TrainOptions
from topolearn.runs import folder as checkpoint
from topolearn.runs.config import read_config, write_config
from topolearn.tasks.evaluation import Loss, check_fits, check_outputs
from topolearn.training.phases import Scheduled, schedule

DEFAULT_DATA = "digits"
"""What a graph is trained on that names no data, where nobody says."""


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and can start.

    Attributes:
        graph: To be searched.
        start: The network whose weights to start from, None for fresh ones.
        learner: Made for the graph.
        data: As the graph wants them, on the CPU.
        settings: Length, seed and precision; the precision is a certain one.
        options: Of training.
        plan: Phases and epochs.
        config: What config.yaml says.
        device: Where it runs.
    """

    graph: Graph
    start: Network | None
    learner: EdgeLearner
    data: Data
    settings: Settings
    options: TrainOptions
    plan: tuple[Scheduled, ...]
    config: dict[str, Any]
    device: torch.device

    def is_finished(self, folder: Path, *, resume: bool) -> bool:
        """Whether ``folder`` holds this run, finished.

        Raises:
            CheckpointError: It holds a run that is not to be resumed, or another one.
        """
        return _holds_run(folder, self.graph, self.config, resume) and checkpoint.is_finished(folder)


ReadData = Callable[[Graph, Any, str | Path | None, TrainOptions], Data]


def prepare(
    graph: str | Path | Graph | nn.Module,
    learner: str | Mapping[str, Any] | EdgeLearner | None = None,
    data: Any = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    loss: Loss | None = None,
    seed: int | None = None,
    device: str | torch.device = "auto",
    precision: str = "auto",
    training: Mapping[str, Any] | TrainOptions | None = None,
    data_root: str | Path | None = None,
    read: ReadData | None = None,
    **learner_options: Any,
) -> Prepared:
    """Check all that a run needs before it starts.

    Arguments are as of :func:`topolearn.fit`; ``read`` loads the data (None: :func:`read_data`).

    Raises:
        TopolearnError: One of its subclasses, for input that cannot be used.
    """
    request = _Request(graph, learner, learner_options, training)
    searched, options = request.graph, request.options
    named_data = _first(data, request.recipe and request.recipe.data, searched.data)
    chosen_data = _first(named_data, DEFAULT_DATA)
    settings = request.settings(chosen_data, epochs, batch_size, lr, seed, precision)
    where = find_device(device)
    settings = settings.model_copy(update={"precision": usual_precision(settings.precision, where)})
    edge_learner = request.make_learner(settings.seed)
    plan = schedule(edge_learner, settings.epochs, options.phases)
    check_node_lr(searched, options.node_lr)
    try:
        source = (read or read_data)(searched, chosen_data, data_root, options)
        check_fits(searched, source.info)
        if loss is None:
            check_outputs(searched, source.info)
    except DataError as error:
        if named_data is not None:
            raise
        raise DataError(
            f"graph '{searched.name}' names no data; say what to train on with --data (the default would not do:"
            f" {error.message})"
        ) from None
    return Prepared(
        graph=searched,
        start=request.start,
        learner=edge_learner,
        data=source,
        settings=settings,
        options=options,
        plan=plan,
        config=_config(searched, settings.model_dump(), edge_learner, source.info, options),
        device=where,
    )


class _Request:
    """What the caller asked for: graph, start, recipe, learner and options, from whichever form they came in."""

    def __init__(
        self,
        graph: str | Path | Graph | nn.Module,
        learner: str | Mapping[str, Any] | EdgeLearner | None,
        learner_options: Mapping[str, Any],
        training: Mapping[str, Any] | TrainOptions | None,
    ) -> None:
        self.recipe = None
        self.start: Network | None = None
        if isinstance(graph, Graph):
            self.graph = graph.verify()
        elif isinstance(graph, Network):
            self.start, self.graph = graph, graph.graph
        elif not isinstance(graph, str | Path):
            raise OptionError(
                f"fit takes a graph, the name or path of one, or a network made from one, not a {type(graph).__name__};"
                " compile a graph first"
            )
        else:
            document = open_recipe(graph)
            if is_recipe(document):
                self.recipe = read_recipe(document)
                self.graph = recipe_graph(self.recipe, document.file)
            else:
                self.graph = load_graph(graph)
        options: dict[str, Any] = {}
        name = "maskconnect"
        if self.recipe is not None:
            name, options = self.recipe.learner_and_options()
        if isinstance(learner, Mapping):
            spec = validate(LearnerSpec, learner, "the learner")
            learner, options = spec.name, dict(spec.model_extra or {})
        elif not isinstance(learner, str | EdgeLearner | None):
            raise OptionError(f"a learner is given by name, or made for the graph, but this is {shown(learner)}")
        elif learner is not None and learner != name:
            # Another learner than the recipe's: its options mean nothing to it.
            options = {}
        self.learner: str | EdgeLearner = name if learner is None else learner
        self.learner_options = options | dict(learner_options)
        if isinstance(training, TrainOptions):
            self.options = training
        elif training is not None and not isinstance(training, Mapping):
            raise OptionError(f"'training' is a mapping of options, as {{'schedule': 'step'}}, not {shown(training)}")
        else:
            merged = {**(self.recipe.training if self.recipe else {}), **(training or {})}
            self.options = validate(TrainOptions, merged, "training")

    def settings(
        self,
        data: Any,
        epochs: int | None,
        batch_size: int | None,
        lr: float | None,
        seed: int | None,
        precision: str,
    ) -> Settings:
        """Length, seed and precision: as given, else the recipe's, else what is usual for ``data``."""
        recipe = self.recipe
        budget = BUDGETS.get(data, OTHER) if isinstance(data, str) else OTHER
        chosen = {
            "epochs": _first(epochs, recipe and recipe.epochs, budget.epochs),
            "batch_size": _first(batch_size, recipe and recipe.batch_size, budget.batch_size),
            "lr": _first(lr, recipe and recipe.lr, budget.lr),
            "seed": _first(seed, recipe and recipe.seed, 0),
            "precision": recipe.precision if recipe and precision == "auto" else precision,
        }
        return validate(Settings, chosen, "fit")

    def make_learner(self, seed: int) -> EdgeLearner:
        """The learner; one with a ``seed`` gets the run's where none is given."""
        if isinstance(self.learner, EdgeLearner):
            if self.learner_options:
                raise OptionError("options go to the learner where it is made, when a made learner is given")
            if self.learner.graph != self.graph:
                raise OptionError(
                    f"the learner was made for graph '{self.learner.graph.name}', which is not this graph"
                )
            return self.learner
        if "seed" in learner_class(self.learner).options_type.model_fields:
            self.learner_options.setdefault("seed", seed)
        return make_learner(self.learner, self.graph, self.learner_options)


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def check_node_lr(graph: Graph, node_lr: Iterable[str]) -> None:
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


def _config(
    graph: Graph, length: Mapping[str, Any], learner: EdgeLearner, info: DataInfo, options: TrainOptions
) -> dict[str, Any]:
    """What config.yaml says."""
    return {
        "topolearn": __version__,
        "graph": graph.name,
        "task": graph.task,
        **length,
        "learner": learner.learner_name,
        "learner_options": learner.options.model_dump(),
        "data": info.name,
        "input_size": {name: graph.input_size(name) for name in graph.inputs},
        "mean": info.mean,
        "std": info.std,
        "classes": info.classes,
        "ignore_index": info.ignore_index,
        "training": options.model_dump(),
    }


def _holds_run(folder: Path, graph: Graph, config: Mapping[str, Any], resume: bool) -> bool:
    """Whether ``folder`` holds a run, which is then this one.

    Raises:
        CheckpointError: A run that is not to be resumed, or another one.
    """
    if not checkpoint.holds_run(folder):
        return False
    if not resume:
        raise CheckpointError(f"{folder} already holds a run; give --resume, or choose another folder with --out")
    began_with = read_config(folder / checkpoint.CONFIG)
    before = load_graph(folder / checkpoint.SEARCHED)
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
