"""A run's network as it was at the end of its search, and the data to evaluate it on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from topolearn.compiler import Network
from topolearn.compiler import compile as build
from topolearn.data import DATASETS
from topolearn.data.for_graph import read_data
from topolearn.data.load import SetName
from topolearn.errors import CheckpointError, DataError, OptionError
from topolearn.format import load_graph
from topolearn.format.tree import parse
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, learner_class, make_learner
from topolearn.learners.base import mend_option
from topolearn.learners.costs import without_replaced_budget
from topolearn.options import validate, with_option
from topolearn.recipes.recipe import check_functions
from topolearn.recipes.train_options import TrainOptions
from topolearn.runs.config import about_data, read_config
from topolearn.runs.folder import CONFIG, SEARCH_STATE, SEARCHED
from topolearn.runs.same_data import as_of_run, classes_differ, content_differs, data_settings, values_differ
from topolearn.runs.tensor_files import load_into, load_tensors
from topolearn.samples import Data
from topolearn.tasks import Evaluation, Loss, Metric, check_fits, default_metrics, task_of
from topolearn.tasks.sliding import judged

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SearchedRun:
    """A run whose search has ended.

    Attributes:
        config: The run's settings, with the learner's present options.
        learner: The learner as it was when the search ended, except for its options.
        net: The network, in eval mode.
        loss: Your own loss; None for the task's.
        metrics: Your own metrics; None for the task's.
    """

    config: dict[str, Any]
    learner: EdgeLearner
    net: Network
    loss: Loss | None = None
    metrics: Mapping[str, Metric] | None = None

    @property
    def graph(self) -> Graph:
        """The graph that was searched."""
        return self.learner.graph

    @property
    def options(self) -> TrainOptions:
        """The training options."""
        return train_options(self.config)

    def data(self, given: Any = None, root: str | Path | None = None) -> Data:
        """Load the run's data, or data like them.

        Args:
            given: Data, as in :func:`topolearn.fit`; None for the run's own.
            root: Folder in which to look for data sets.

        Raises:
            DataError: See :func:`find_data`.
            OptionError: The default loss and metrics do not fit the graph's outputs.
        """
        return find_data(self.config, self.graph, given, root, own_loss=self.loss is not None)

    def evaluate(self, net: Network, data: Data, device: torch.device = CPU) -> dict[str, float]:
        """Return the loss and metrics of a network on the validation data.

        Args:
            net: A network on ``device``; it is left in eval mode.
            data: Data with batches on ``device``.
            device: The device.
        """
        return self.judge(net, data, device)[0]

    def judge(
        self, net: Network, data: Data, device: torch.device = CPU
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return the metrics of :meth:`evaluate` and the rows per class of :class:`FitResult`."""
        loss = self.loss or task_of(data.info.task).loss(data.info, self.options.label_smoothing)
        metrics = default_metrics(self.graph, data.info) if self.metrics is None else self.metrics
        evaluation = Evaluation(loss, metrics, device)
        net.eval()
        with torch.no_grad():
            batches = data.val_batches(data.val_batch_size(self.config["batch_size"]))
            found = evaluation.run(judged(net, self.options), batches)
        return found, evaluation.per_class


def find_data(
    config: Mapping[str, Any],
    graph: Graph,
    given: Any = None,
    root: str | Path | None = None,
    *,
    own_loss: bool = False,
) -> Data:
    """Find the data of a run, or load data like them.

    A run's own data are recognised by their content. They are looked for where the run found them, then by name;
    data with other content are skipped. Given data must have the run's classes and are normalised like the run's
    own; if their content differs, there is a warning.

    Args:
        config: The run's settings.
        graph: The graph to evaluate.
        given: Data, as in :func:`topolearn.fit`; None for the run's own.
        root: Folder in which to look for data sets.
        own_loss: Whether you give the loss. Then targets and outputs may have any form.

    Raises:
        DataError: The data cannot be found, or are not the run's.
        OptionError: The default loss and metrics do not fit the graph's outputs.
    """
    data = _own_data(config, graph, root) if given is None else _given_data(config, graph, given, root, own_loss)
    check_fits(graph, data.info)
    if not own_loss:
        task_of(graph.task).check_outputs(graph, data.info)
    return data


def _given_data(config: Mapping[str, Any], graph: Graph, given: Any, root: str | Path | None, own_loss: bool) -> Data:
    data = read_data(graph, given, root, train_options(config), own_loss=own_loss)
    found = data_settings(data)
    differs = classes_differ(config, found)
    if differs is not None:
        raise DataError(f"the data given as '{_where(data)}' have {differs}; give data like the run's")
    differs = values_differ(config, found) or content_differs(config, found)
    if differs is not None:
        warnings.warn(f"these are other data than the run's: '{_where(data)}' has {differs}", stacklevel=4)
    return as_of_run(data, config)


def _own_data(config: Mapping[str, Any], graph: Graph, root: str | Path | None) -> Data:
    if "content" in config and "data_path" not in config and config["data"] not in DATASETS:
        raise DataError(
            f"there is no way to find the run's data '{config['data']}', a set of your own that was given in Python;"
            " say where such data are with --data-root or --data, or give the set again as 'data' in Python"
        )
    options = train_options(config)
    reasons: list[str] = []
    for source, place in _sources(config, root):
        try:
            data = read_data(graph, source, place, options)
        except DataError as error:
            reasons.append(error.message)
            continue
        found = data_settings(data)
        differs = classes_differ(config, found) or values_differ(config, found) or content_differs(config, found)
        if differs is None:
            return as_of_run(data, config)
        reasons.append(f"the data found as '{_where(data)}' have {differs}")
    listed = " | ".join(dict.fromkeys(reasons))
    raise DataError(f"{listed}; say where the run's own data are with --data-root or --data")


def _sources(config: Mapping[str, Any], root: str | Path | None) -> Iterator[tuple[str | Path, str | Path | None]]:
    """Yield ``(data, root)`` for :func:`read_data`, for each place that may hold a run's data: the likeliest first."""
    name, path = config["data"], config.get("data_path")
    if path is not None and os.path.exists(path):
        if name in DATASETS:
            yield SetName(name), path
        yield Path(path), None
    if name in DATASETS:
        yield SetName(name), root
    if name not in DATASETS or path is not None:  # a user's folder may have the name of a set
        yield Path(name), root


def _where(data: Data) -> str:
    return data.info.name if data.path is None else str(data.path)


def train_options(config: Mapping[str, Any]) -> TrainOptions:
    """Return the training options of a run. Those at their defaults count as not given: the file holds all of them."""
    options = validate(TrainOptions, config.get("training", {}), "the run's training")
    return TrainOptions(**options.model_dump(exclude_defaults=True))


def load_searched(
    run_dir: str | Path,
    settings: Mapping[str, str] | None = None,
    *,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> SearchedRun:
    """Read a run's network as it was at the end of its search, without unpickling anything.

    Args:
        run_dir: Folder of a run that has ended its search.
        settings: Learner option -> YAML value, instead of the run's.
        loss: Your own loss, to judge networks by; None for the task's.
        metrics: Your own metrics; None for the task's.

    Raises:
        CheckpointError: There is no such run, or it has no ended search.
        OptionError: An unknown option, one that acts only in training, or a loss or metric that is not a function.
    """
    check_functions(loss, metrics, ())
    folder = Path(run_dir)
    config = read_config(folder / CONFIG)
    path = folder / SEARCH_STATE
    if not path.is_file():
        raise CheckpointError(
            f"the run in {folder} has no {SEARCH_STATE}: its search has not ended, or learner"
            f" '{config['learner']}' does not search"
        )
    config["learner_options"] = _options(config["learner"], config["learner_options"], settings or {})
    searched = load_graph(folder / SEARCHED)
    learner = make_learner(config["learner"], searched, config["learner_options"])
    config["learner_options"] = learner.options.model_dump()
    net = build(searched, learner)
    load_into(net, _with_prices(net, load_tensors(path)), path)
    net.about = about_data(config)
    return SearchedRun(config, learner, net.eval(), loss, metrics)


def _with_prices(net: Network, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state of the search with the prices of the learner's present options, which may have changed."""
    prices = "learner.pricing."
    own = {name: value for name, value in net.state_dict().items() if name.startswith(prices)}
    same = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    return {**{name: value for name, value in tensors.items() if not name.startswith(prices)}, **own, **same}


def _options(learner: str, options: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the learner's options with settings applied, which must decide what is kept."""
    known, deciding = learner_class(learner).options_type.model_fields, learner_class(learner).prunes_by
    options = without_replaced_budget(options, settings)
    for key, text in settings.items():
        name = key.partition(".")[0]
        if name not in known:
            raise OptionError(f"--set {key}: unknown option of learner '{learner}'{mend_option(key, learner)}")
        if deciding is not None and name not in deciding:
            raise OptionError(
                f"--set {key}: this option of learner '{learner}' acts in training, not on a search that has ended;"
                f" give {', '.join(sorted(deciding))}, or search again"
            )
        value = parse(f"value: {text}", f"--set {key}={text}").root.values["value"].plain()
        options = with_option(options, key, value)
    return options
