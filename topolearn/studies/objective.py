"""``objective``: a recipe with settings to search, as a function for Optuna."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import DivergedError, OptionError, TopolearnError, shown, suggest
from topolearn.format.writer import scalar
from topolearn.learners import learner_class
from topolearn.loggers.base import closing_numbers
from topolearn.recipes import Recipe, load_recipe
from topolearn.recipes.recipe_file import learner_of
from topolearn.studies.compare import is_for_others
from topolearn.studies.shared_data import SharedData
from topolearn.tasks import TASKS
from topolearn.training import fit
from topolearn.training.prepare import prepare

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

_SMALLER = ("bits_per_byte", "loss", "mae")
"""Metrics that are better if they are smaller."""


def objective(
    recipe: str | Path,
    space: Mapping[str, Any],
    *,
    metric: str | None = None,
    direction: str | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Objective:
    """Make a function for Optuna's ``study.optimize``, which trains a recipe with suggested settings.

    Every epoch that is evaluated is reported to Optuna, whose pruner may end the trial. So does a loss that becomes
    infinite. Everything is checked here, before the first trial: each value of a list, and both ends of a range.

    Args:
        recipe: Name or path of a recipe or graph.
        space: Setting, as in ``topolearn fit --set`` -> its values: ``[1, 2, 4]`` is a list to choose from, ``(1, 8)``
            a range of whole numbers, ``(0.01, 0.1)`` one of numbers, and any distribution of Optuna is itself. An
            option that some of the learners in the space do not have is suggested only for those that have it.
        metric: The metric of the final network to search by, or ``loss``. Default: the first of the task.
        direction: ``maximize`` or ``minimize``; needed for a metric of your own.
        settings: Other settings, the same in all trials, as in ``topolearn fit --set``.
        out: Folder for the trials (``trial-0`` …); None writes nothing.
        options: Other arguments of :func:`topolearn.fit`. ``quiet`` is true and ``export`` false if you do not say.

    Raises:
        TopolearnError: A setting or value cannot be used, or Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise OptionError("Optuna is not installed; run: pip install 'topolearn-torch[optuna]'") from None
    if not isinstance(space, Mapping) or not space:
        raise OptionError(f"'space' is {shown(space)}; map settings to values, such as {{'fan_in': (1, 4)}}")
    if "resume" in options:
        raise OptionError("'resume' is for one run; a study goes on by itself if you load it again")
    distributions = {key: _distribution(key, values) for key, values in space.items()}
    fixed = {key: _text(value) for key, value in (settings or {}).items()}
    _check_once(space, fixed, options)
    options = {"quiet": True, "export": False, **options}
    task = _check(recipe, distributions, fixed, options)
    known = ("loss",) if options.get("loss") is not None or task not in TASKS else TASKS[task].judged_by
    if metric is None:
        metric = known[0]
    if options.get("metrics") is None and metric not in (*known, "loss"):
        raise OptionError(f"there is no metric '{metric}' for {task}{suggest(metric, (*known, 'loss'))}")
    if direction is None:
        if metric not in (*_SMALLER, *(name for each in TASKS.values() for name in each.judged_by)):
            raise OptionError(f"say whether more of '{metric}' is better: direction='maximize' or 'minimize'")
        direction = "minimize" if metric in _SMALLER else "maximize"
    if direction not in ("maximize", "minimize"):
        raise OptionError(f"'direction' is {shown(direction)}, but should be 'maximize' or 'minimize'")
    return Objective(recipe, distributions, metric, direction, fixed, None if out is None else Path(out), options)


@dataclass(frozen=True)
class Objective:
    """A function of an Optuna trial; :func:`topolearn.objective` makes it.

    Attributes:
        recipe: The recipe.
        space: Setting -> Optuna's distribution.
        metric: Name of the metric to search by.
        direction: ``maximize`` or ``minimize``, for ``optuna.create_study``.
        settings: Settings of all trials.
        out: Folder for the trials, or None.
        options: Other arguments of ``fit``.
    """

    recipe: str | Path
    space: Mapping[str, BaseDistribution]
    metric: str
    direction: str
    settings: Mapping[str, str]
    out: Path | None
    options: Mapping[str, Any]
    _busy: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, trial: Trial) -> float:
        """Train with the settings that Optuna suggests.

        Returns:
            The metric of the final network. All closing numbers are in the trial's user attributes.

        Raises:
            TrialPruned: The pruner ended the trial, or its loss became infinite.
            OptionError: The study has another direction, or another trial runs in this process.
        """
        study = getattr(trial, "study", None)
        if study is not None and study.direction.name.lower() != self.direction:
            raise OptionError(
                f"'{self.metric}' is to {self.direction}, but the study is to {study.direction.name.lower()}; create it"
                " with direction=objective.direction"
            )
        if not self._busy.acquire(blocking=False):
            raise OptionError(
                "trials of one process run one after the other; instead of n_jobs, start several processes with the"
                " same storage"
            )
        try:
            return self._train(trial)
        finally:
            self._busy.release()

    def _train(self, trial: Trial) -> float:
        from optuna import TrialPruned

        epochs = itertools.count()

        def report(record: Mapping[str, Any]) -> None:
            epoch = next(epochs)
            found = {name.removeprefix("val_"): value for name, value in record.items() if name.startswith("val_")}
            if not found:
                return
            if self.metric not in found:
                raise OptionError(f"the runs have no metric '{self.metric}'{suggest(self.metric, found)}")
            trial.report(found[self.metric], epoch)
            if trial.should_prune():
                raise TrialPruned(f"after epoch {epoch}")

        texts: dict[str, str] = dict(self.settings)
        for key in sorted(self.space, key=lambda key: key != "learner"):  # it decides about the others
            if key == "learner" or _applies(key, self.recipe, self.space, texts):
                texts[key] = _text(_suggested(trial, key, self.space[key]))
        given = dict(self.options)
        callbacks = (*given.pop("callbacks", ()), report)
        folder = None if self.out is None else self.out / f"trial-{trial.number}"
        try:
            result = fit(load_recipe(self.recipe, texts), callbacks=callbacks, out=folder, **given)
        except DivergedError as error:
            raise TrialPruned(error.message) from None
        for name, value in closing_numbers(result).items():
            trial.set_user_attr(name, value)
        return result.metrics[self.metric]


def _applies(key: str, recipe: str | Path, space: Mapping[str, BaseDistribution], texts: Mapping[str, str]) -> bool:
    """Whether a setting is one of the chosen learner, or of none in particular."""
    learners = [str(learner) for learner in _ends(space["learner"])] if "learner" in space else []
    return not is_for_others(key, learner_of(recipe, texts), learners)


def _distribution(key: str, values: Any) -> BaseDistribution:
    """Return the distribution that the values of a setting mean."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, BaseDistribution):
        return values
    try:
        if isinstance(values, list):
            plain = (str, int, float, bool, type(None))
            return CategoricalDistribution([each if isinstance(each, plain) else _text(each) for each in values])
        numbers = isinstance(values, tuple) and all(type(each) in (int, float) for each in values)
        if numbers and len(values) == 2:
            whole = all(isinstance(each, int) for each in values)
            return IntDistribution(*values) if whole else FloatDistribution(*values)
    except ValueError as error:
        raise OptionError(f"the values of '{key}' are {shown(values)}: {error}") from None
    raise OptionError(
        f"the values of '{key}' are {shown(values)}; give a list to choose from, the ends of a range as (low, high), or"
        " a distribution of Optuna"
    )


def _suggested(trial: Trial, key: str, values: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    assert isinstance(values, FloatDistribution)
    return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)


def _ends(values: BaseDistribution) -> tuple[Any, ...]:
    """Return the values to check: all of a list, the ends of a range."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, CategoricalDistribution):
        return tuple(values.choices)
    assert isinstance(values, FloatDistribution | IntDistribution)
    return values.low, values.high


def _text(value: Any) -> str:
    """Return a value as text for ``--set``; text is returned as it is."""
    return value if isinstance(value, str) else scalar(value)


def _check_once(space: Mapping[str, Any], settings: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Raise an OptionError if a setting of the space is also given in another way."""
    training = options.get("training")
    given = {*settings, *options, *(training if isinstance(training, Mapping) else ())}
    for key in space:
        if key in given or key.removeprefix("training.").removeprefix("learner.").partition(".")[0] in given:
            raise OptionError(f"'{key}' is in the space and also given as one value; drop one of the two")


def _check(
    recipe: str | Path, space: Mapping[str, BaseDistribution], settings: Mapping[str, str], options: Mapping[str, Any]
) -> str:
    """Check the recipe with each value of each setting, and return the task.

    Raises:
        TopolearnError: The first thing that is wrong.
    """
    shared = SharedData(options.get("data_root"))
    own = set(inspect.signature(fit).parameters)
    learner_options = {key: value for key, value in options.items() if key not in own}
    given = {key: value for key, value in options.items() if key in own}
    first = {key: _ends(values)[0] for key, values in space.items()}
    tried = [first, *({**first, key: value} for key, values in space.items() for value in _ends(values)[1:])]
    task = ""
    for values in tried:
        texts = dict(settings) | {key: _text(value) for key, value in values.items()}
        if "learner" in texts:
            learner_class(texts["learner"])  # raises an error if there is none
        texts = {key: text for key, text in texts.items() if _applies(key, recipe, space, texts)}
        try:
            file = load_recipe(recipe, texts)
            file.searched.verify()
            asked = Recipe.of(file, learner_options=learner_options, **given)
            prepare(shared.read_for(asked))
        except TopolearnError as error:
            if error.location is None:
                error.message = f"{recipe} {' '.join(f'{key}={text}' for key, text in texts.items())}: {error}"
            raise
        task = asked.graph.task
    return task
