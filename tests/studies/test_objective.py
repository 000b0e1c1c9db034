"""Optuna's function: what is searched, what is reported, what is pruned, and what is wrong before the first trial."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studies.test_compare import LEARNED, write_recipes
from topolearn.errors import OptionError, TopolearnError
from topolearn.studies.objective import Objective, objective

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the recipes."""
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield tmp_path
    optuna.logging.set_verbosity(before)


def made(space: Any = None, recipe: str = LEARNED, **options: Any) -> Objective:
    return objective(recipe, {"fan_in": (1, 2)} if space is None else space, **{"device": "cpu"} | options)


def study_of(function: Objective, trials: int, pruner: Any = None, **options: Any) -> Any:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction=function.direction, sampler=sampler, pruner=pruner, **options)
    study.optimize(function, n_trials=trials)
    return study


def test_a_space_becomes_distributions() -> None:
    log = optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)
    space = {"fan_in": (1, 2), "lr": log, "momentum": (0.5, 0.9), "milestones": [[0.5], [0.3, 0.6]], "nesterov": [True]}
    found = made(space).space
    assert found == {
        "fan_in": optuna.distributions.IntDistribution(1, 2),
        "lr": log,
        "momentum": optuna.distributions.FloatDistribution(0.5, 0.9),
        "milestones": optuna.distributions.CategoricalDistribution(["[0.5]", "[0.3, 0.6]"]),
        "nesterov": optuna.distributions.CategoricalDistribution([True]),
    }


def test_a_study(folder: Path) -> None:
    space = {"fan_in": (1, 2), "phases.fine_tune.lr": [0.1, 0.5], "nodes.stem.out_channels": [3], "data": ["digits"]}
    function = made(space, out="out", settings={"train_images": 40})
    assert (function.metric, function.direction) == ("accuracy", "maximize")
    study = study_of(function, 2)
    for trial in study.trials:
        assert set(trial.params) == set(space)
        assert trial.value == trial.user_attrs["final_accuracy"]
        assert trial.user_attrs["final_edges"] > 0
        assert list(trial.intermediate_values) == [0, 1]
        config = (folder / "out" / f"trial-{trial.number}" / "config.yaml").read_text()
        assert f"fan_in: {trial.params['fan_in']}" in config
        assert "train_images: 40" in config
        assert not (folder / "out" / f"trial-{trial.number}" / "model.onnx").exists()


def test_a_study_in_a_file_goes_on(folder: Path) -> None:
    storage = {"storage": "sqlite:///study.db", "study_name": "tiny", "load_if_exists": True}
    study_of(made(), 1, **storage)
    assert len(study_of(made(), 1, **storage).trials) == 2


def test_an_option_is_suggested_for_the_learners_that_have_it() -> None:
    function = made({"fan_in": [1], "threshold": (0.01, 0.2), "learner": ["continuous", "maskconnect"]})
    study = optuna.create_study(direction="maximize")
    for learner in ("continuous", "maskconnect"):
        study.enqueue_trial({"learner": learner})
    study.optimize(function, n_trials=2)
    continuous, maskconnect = (set(trial.params) for trial in study.trials)
    assert "threshold" in continuous
    assert maskconnect == {"learner", "fan_in"}


class AtOnce(optuna.pruners.BasePruner):
    """Prunes at the first report."""

    def prune(self, study: Any, trial: Any) -> bool:
        return True


def test_pruning_ends_a_trial() -> None:
    (trial,) = study_of(made(), 1, AtOnce()).trials
    assert trial.state.name == "PRUNED"
    assert list(trial.intermediate_values) == [0]


def test_what_diverges_is_pruned() -> None:
    (trial,) = study_of(made({"lr": [1e30]}), 1).trials
    assert trial.state.name == "PRUNED"


def test_epochs_that_are_not_evaluated_are_not_reported() -> None:
    (trial,) = study_of(made(settings={"evaluate_every": 2}, epochs=4), 1).trials
    assert list(trial.intermediate_values) == [1, 3]


def test_callbacks_of_your_own_are_called() -> None:
    records: list[Any] = []
    study_of(made(callbacks=[records.append]), 1)
    assert len(records) == 2


def test_a_metric_of_your_own() -> None:
    def half(outputs: Any, targets: Any) -> float:
        return 0.5

    function = made(metrics={"half": half}, metric="half", direction="minimize")
    assert study_of(function, 1).best_value == 0.5
    assert made(metric="loss").direction == "minimize"
    with pytest.raises(OptionError, match="the runs have no metric 'hafl'; did you mean 'half'"):
        study_of(made(metrics={"half": half}, metric="hafl", direction="minimize"), 1)


@pytest.mark.parametrize(
    ("space", "options", "why"),
    [
        ({"fan_inn": (1, 2)}, {}, "--set fan_inn: unknown setting; did you mean 'fan_in'"),
        ({"fan_in": (1, 99)}, {}, "fan_in"),
        ({"lr": [0.1, -1]}, {}, "'lr' of .* is -1"),
        ({"lr": (0.1, 0.01)}, {}, "the values of 'lr' are"),
        ({"lr": []}, {}, "the values of 'lr' are"),
        ({"lr": 0.1}, {}, "give a list to choose from, the ends of a range"),
        ({"lr": (0.1, 0.2, 0.3)}, {}, "give a list to choose from, the ends of a range"),
        ({"schedule": ["cosine", "stpe"]}, {}, "stpe"),
        ({"learner": ["maskconect"]}, {}, "did you mean 'maskconnect'"),
        ({"nodes.head.classes": [10, 5]}, {}, "has 10 classes"),
        ({}, {}, "'space' is {}; map settings to values"),
        ({"lr": (0.1, 0.2)}, {"lr": 0.1}, "'lr' is in the space and also given as one value"),
        ({"training.lr_floor": (0.1, 0.2)}, {"training": {"lr_floor": 0}}, "also given as one value"),
        ({"lr": (0.1, 0.2)}, {"settings": {"lr": 1}}, "also given as one value"),
        (None, {"metric": "accurcy"}, "there is no metric 'accurcy' for classification; did you mean 'accuracy'"),
        (None, {"metrics": {"mine": max}, "metric": "mine"}, "say whether more of 'mine' is better"),
        (None, {"direction": "up"}, "'direction' is 'up', but should be 'maximize' or 'minimize'"),
        (None, {"resume": True}, "'resume' is for one run"),
        (None, {"data": "nothing"}, "nothing"),
    ],
)
def test_what_is_wrong_before_the_first_trial(space: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(TopolearnError, match=why) as failure:
        made(space, **options)
    assert "\n" not in str(failure.value)


def test_a_study_of_the_other_direction() -> None:
    study = optuna.create_study(direction="minimize")
    with pytest.raises(OptionError, match="'accuracy' is to maximize, but the study is to minimize"):
        study.optimize(made(), n_trials=1)


def test_trials_side_by_side_in_one_process() -> None:
    study = optuna.create_study(direction="maximize")
    errors: list[Exception] = []

    def another() -> None:
        try:
            function(study.ask())
        except OptionError as error:
            errors.append(error)

    def start_another(record: Any) -> None:
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()

    function = made(callbacks=[start_another], epochs=2)
    assert function(study.ask()) >= 0
    assert len(errors) == 2
    assert "trials of one process run one after the other" in str(errors[0])
