"""Prune a run again with other options of its learner."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from topolearn.compiler import Network, prune
from topolearn.device import find_device
from topolearn.errors import CheckpointError, DataError, TopolearnError
from topolearn.files import make_folder
from topolearn.graph import one_level_params
from topolearn.runs.finished import describe_data
from topolearn.runs.folder import SEARCH_STATE, check_free, holds_run
from topolearn.runs.history import read_history
from topolearn.runs.movement import copy_movement
from topolearn.runs.result import FitResult, closing_record
from topolearn.runs.searched import CPU, SearchedRun, load_searched
from topolearn.runs.tensor_files import save_tensors
from topolearn.samples import Data
from topolearn.samples.seeds import mix
from topolearn.tasks import Loss, Metric
from topolearn.training.phases import recalibrate


def reprune(
    run_dir: str | Path,
    out: str | Path,
    settings: Mapping[str, str] | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    data: Any = None,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> FitResult:
    """Prune a run's network at the end of its search again, with other options.

    If the run's learner asks for it, batch normalisation statistics are recomputed on the run's training data, as at
    the end of its search. If the data cannot be found, there is a warning.

    The result is a run like any other: you can show, export and prune it, and ``fit`` with ``resume`` and the same
    options returns its result.

    Args:
        run_dir: Folder of a run that has ended its search.
        out: Folder for the result; it must not hold a run yet.
        settings: Learner option -> YAML value.
        data_root: Folder in which data sets are looked for.
        device: Where to measure; ``auto`` is CUDA if available.
        data: Data, as in :func:`topolearn.fit`; None for the run's own.
        loss: As in :func:`topolearn.fit`. Give it if the run had one.
        metrics: As in :func:`topolearn.fit`.

    Returns:
        The pruned network, on the CPU; with metrics if the run's data can be found.

    Raises:
        CheckpointError: There is no such run or no search, or ``out`` holds a run already.
        OptionError: An unknown option, one that acts only in training, a device that cannot be used, or ``out`` holds
            other files.
        DataError: ``data`` cannot be read, or are for another network.
    """
    target, where = Path(out), find_device(device)
    if holds_run(target):
        raise CheckpointError(f"{target} already holds a run; choose another folder with --out")
    check_free(target)
    run = load_searched(run_dir, settings, loss=loss, metrics=metrics)
    pruned = prune(run.net)
    judged_on = _find(run, data_root, where) if data is None else run.data(data, data_root).to(where)
    if run.learner.recalibrates and judged_on is not None:
        batch_size, seed = run.config["batch_size"], run.config.get("seed", 0)
        recalibrate(pruned.to(where), judged_on, batch_size, mix("recalibrate", seed))
    (searched_metrics, _), (measured, per_class) = _evaluate(run, judged_on, where, run.net, pruned)
    result = FitResult(
        graph=pruned.graph,
        model=pruned,
        searched=run.graph,
        learner=run.learner,
        history=[],
        metrics=measured,
        searched_metrics=searched_metrics,
        given_metrics=_given_metrics(Path(run_dir)),
        one_level_params=one_level_params(run.graph, run.learner.topology()),
        info=describe_data(run.config),
        spent=run.learner.spent(),
        per_class=per_class,
        folder=target,
        config=run.config,
    )
    result.history.append(closing_record(result))
    make_folder(target)
    copy_movement(Path(run_dir), target)
    save_tensors(target / SEARCH_STATE, run.net.state_dict(), {"graph": run.graph.name})
    result.save(target)
    return result


def _given_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of the network that the run was given; empty for an unfinished run or a random start."""
    last = (read_history(folder) or [{}])[-1]
    return dict(last.get("given_metrics", {}))


def _find(run: SearchedRun, data_root: str | Path | None, device: torch.device) -> Data | None:
    """Load the run's data; None, with a warning, if they cannot be found or the default metrics do not fit."""
    try:
        return run.data(root=data_root).to(device)
    except DataError as error:
        lost = ", and batch statistics stay as before pruning, which may cost much accuracy"
        warnings.warn(
            f"the run's data '{run.config['data']}' cannot be found, so nothing is measured"
            f"{lost if run.learner.recalibrates else ''}: {error.message}",
            stacklevel=3,
        )
    except TopolearnError as error:
        warnings.warn(f"nothing is measured: {error.message}", stacklevel=3)
    return None


def _evaluate(
    run: SearchedRun, data: Data | None, device: torch.device, *nets: Network
) -> list[tuple[dict[str, float], list[dict[str, Any]]]]:
    """Return metrics and rows per class of each network; empty without data. Moves the networks to the CPU."""
    judged = [({}, []) if data is None else run.judge(net.to(device), data, device) for net in nets]
    for net in nets:
        net.to(CPU)
    return judged
