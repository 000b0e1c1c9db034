"""Pruning a run anew with other options of its learner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from topolearn.compiler import Network, prune
from topolearn.errors import CheckpointError, TopolearnError
from topolearn.graph import one_level_params
from topolearn.training import checkpoint
from topolearn.training.result import FitResult, closing_record, describe_data
from topolearn.training.searched import SearchedRun, load_searched


def reprune(
    run_dir: str | Path,
    out: str | Path,
    settings: Mapping[str, str] | None = None,
    data_root: str | Path | None = None,
) -> FitResult:
    """Take a run's network as it was at the end of its search, and prune it with other options.

    Args:
        run_dir: The folder of a run whose search has ended.
        out: Folder for the result; it must not hold a run yet.
        settings: Option of the learner -> YAML value.
        data_root: Where the data set is looked for first.

    Returns:
        The pruned network; its metrics are measured where the run's data set can be found by name.

    Raises:
        CheckpointError: No such run, no search, or ``out`` holds one already.
        OptionError: An unknown option.
    """
    target = Path(out)
    if checkpoint.holds_run(target):
        raise CheckpointError(f"{target} already holds a run; choose another folder with --out")
    run = load_searched(run_dir, settings)
    pruned = prune(run.net)
    searched_metrics, metrics = _evaluate(run, data_root, run.net, pruned)
    result = FitResult(
        graph=pruned.graph,
        model=pruned,
        searched=run.graph,
        learner=run.learner,
        history=[],
        metrics=metrics,
        searched_metrics=searched_metrics,
        one_level_params=one_level_params(run.graph, run.learner.topology()),
        info=describe_data(run.config),
        spent=run.learner.spent(),
        folder=target,
        config=run.config,
    )
    result.history.append(closing_record(result))
    result.save(target)
    return result


def _evaluate(run: SearchedRun, data_root: str | Path | None, *nets: Network) -> list[dict[str, float]]:
    """Metrics of each network on the run's data; empty where they cannot be found, or judged by default."""
    try:
        data = run.data(root=data_root)
    except TopolearnError:
        return [{} for _ in nets]
    return [run.evaluate(net, data) for net in nets]
