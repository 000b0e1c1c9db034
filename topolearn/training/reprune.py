"""Pruning a run anew with other options of its learner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from topolearn.compiler import compile as build
from topolearn.compiler import prune
from topolearn.compiler.modules.backbone import without_pretrained_weights
from topolearn.errors import CheckpointError, DataError, OptionError, suggest
from topolearn.format import load_graph
from topolearn.format.tree import parse
from topolearn.graph import one_level_params
from topolearn.learners import learner_class, make_learner
from topolearn.training import checkpoint
from topolearn.training.artefacts import about_data, read_config
from topolearn.training.data import DATASETS, load_data
from topolearn.training.metrics import Evaluation, default_loss, default_metrics
from topolearn.training.result import FitResult, closing_record, describe_data


def reprune(run_dir: str | Path, out: str | Path, settings: Mapping[str, str] | None = None) -> FitResult:
    """Take a run's network as it was at the end of its search, and prune it with other options.

    Args:
        run_dir: The folder of a run whose search has ended.
        out: Folder for the result; it must not hold a run yet.
        settings: Option of the learner -> YAML value.

    Returns:
        The pruned network; its metrics are measured where the run's data set can be found by name.

    Raises:
        CheckpointError: No such run, no search, or ``out`` holds one already.
        OptionError: An unknown option.
    """
    folder, target = Path(run_dir), Path(out)
    config = read_config(folder / checkpoint.CONFIG)
    if not (folder / checkpoint.SEARCH_STATE).is_file():
        raise CheckpointError(
            f"the run in {folder} has no {checkpoint.SEARCH_STATE}: it has not ended its search, or had none"
        )
    if checkpoint.holds_run(target):
        raise CheckpointError(f"{target} already holds a run; choose another folder with --out")
    options = {**config["learner_options"], **_options(config["learner"], settings or {})}
    config["learner_options"] = options
    searched = load_graph(folder / checkpoint.SEARCHED)
    learner = make_learner(config["learner"], searched, options)
    with without_pretrained_weights():
        net = build(searched, learner)
    path = folder / checkpoint.SEARCH_STATE
    checkpoint.load_into(net, checkpoint.load_tensors(path), path)
    net.about = about_data(config)
    net.eval()
    pruned = prune(net)
    searched_metrics, metrics = _evaluate(net, config), _evaluate(pruned, config)
    result = FitResult(
        graph=pruned.graph,
        model=pruned,
        searched=searched,
        learner=learner,
        history=[],
        metrics=metrics,
        searched_metrics=searched_metrics,
        one_level_params=one_level_params(searched, learner.topology()),
        info=describe_data(config),
        folder=target,
        config=config,
    )
    result.history.append(closing_record(result))
    result.save(target)
    return result


def _options(learner: str, settings: Mapping[str, str]) -> dict[str, Any]:
    known = learner_class(learner).options_type.model_fields
    options = {}
    for key, text in settings.items():
        if key not in known:
            raise OptionError(f"--set {key}: unknown option of learner '{learner}'{suggest(key, known)}")
        options[key] = parse(f"value: {text}", f"--set {key}={text}").root.values["value"].plain()
    return options


def _evaluate(net: Any, config: Mapping[str, Any]) -> dict[str, float]:
    """Metrics on the run's data; empty where they cannot be found."""
    if config["data"] not in DATASETS:
        return {}
    try:
        data = load_data(config["data"], task=config["task"])
    except DataError:
        return {}
    evaluation = Evaluation(default_loss(data.info), default_metrics(data.info), torch.device("cpu"))
    with torch.no_grad():
        return evaluation.run(net, data.val_batches(config["batch_size"]))
