"""``compare``: run several recipes with several seeds, and make one table."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from topolearn.errors import OptionError, TopolearnError, shown, tell
from topolearn.files import check_folder, file_name, make_folder
from topolearn.format.tree import Items, Scalar, parse
from topolearn.format.writer import scalar
from topolearn.learners import learner_class
from topolearn.loggers import make_logger
from topolearn.recipes import Recipe, RecipeFile, load_recipe
from topolearn.recipes.recipe_file import is_learner_option, learner_of
from topolearn.recipes.train_options import TrainOptions
from topolearn.report.tables import metric_spec
from topolearn.runs import read_config
from topolearn.runs.folder import CONFIG, holds_run
from topolearn.studies.cluster import FOLDER as JOBS
from topolearn.studies.cluster import Cluster, run_on_cluster
from topolearn.studies.comparison import MARKDOWN, Comparison, Failure, Row, RunSummary, clock
from topolearn.studies.processes import Crew, Job, run_all
from topolearn.studies.shared_data import SharedData
from topolearn.training.prepare import prepare

_MOST = 10_000
"""Largest number of values in a range; each is at least one run."""


def compare(
    recipes: str | Path | Sequence[str | Path],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    out: str | Path = "runs/compare",
    jobs: int | None = None,
    device: str = "auto",
    data_root: str | Path | None = None,
    log: Sequence[str] = (),
    slurm: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Train several recipes with several seeds, and compare the results.

    Every run is ``topolearn fit RECIPE --seed S`` in its own process and its own folder,
    ``OUT/NAME/seed-S`` (for a variant ``OUT/NAME/KEY=VALUE/seed-S``). Finished runs are not repeated,
    unfinished ones are resumed, and a failure in one run does not affect the others. All recipes are
    read and checked before the first run starts and before anything is written.

    Args:
        recipes: Names or paths of recipes or graphs.
        seeds: Each recipe runs once with each seed.
        vary: Setting -> values, such as ``{"fan_in": [1, 2, 4]}``. Every recipe runs with each value, or
            with each combination if there are several settings.
        settings: Settings for all recipes, as in ``topolearn fit --set``: ``{"schedule": "step"}``. A learner's
            option applies only to the learners that have it.
        epochs: Epochs of every run, instead of the recipe's.
        out: Folder for the runs and the table (``compare.md`` and ``compare.csv``).
        jobs: Number of runs at a time; they share the CPU's threads. None: one per GPU, or one without a GPU. On a
            cluster: as many as it starts.
        device: ``auto`` takes all GPUs in turn, or the CPU without a GPU.
        data_root: Folder in which data sets are looked for first.
        log: Loggers of every run, by name: ``mlflow``, ``wandb``, ``tensorboard``.
        slurm: Options of sbatch by long name, such as ``{"time": "4:00:00", "partition": "gpu", "gpus": 1}``. Every run
            is then a job of Slurm. None: every run is a process on this machine.
        quiet: Whether to hide progress.

    Returns:
        The figures of all finished runs, and the runs that failed.

    Raises:
        TopolearnError: A recipe, a setting or data cannot be used.
        KeyboardInterrupt: After Ctrl-C; the same call resumes. Jobs of Slurm have been cancelled.
    """
    for name in log:
        make_logger(name)  # raises an error if it cannot be used
    cluster = None if slurm is None else Cluster.of(slurm, _at_once(jobs))
    devices = _devices("auto" if cluster else device)
    common = {key: _yaml(value) for key, value in (settings or {}).items()}
    if epochs is not None:
        common["epochs"] = _yaml(epochs)
    chosen = _seeds(seeds)
    variants = tuple(_variants(recipes, common, vary or {}))
    crew = _crew(devices, _at_once(jobs), len(variants) * len(chosen))
    board = _Board(variants, chosen, Path(out), quiet)
    _check_folder(board.folder)
    _check(board, devices[0], data_root, elsewhere=cluster is not None)
    for variant in variants:
        for key in variant.left_out:
            board.say(f"{variant.name}: without {key}={common[key]}, because its learner has no such option")
    make_folder(board.folder)
    fixed = ["--no-export", *(["--quiet"] if quiet else []), *(part for name in log for part in ("--log", name))]
    if data_root is not None:
        fixed += ["--data-root", str(data_root)]
    runs = {
        Job(variant.label(seed), variant.command(seed, board.folder, fixed)): (variant, seed)
        for variant, seed in board.left()
    }

    def ended(job: Job, failure: str | None) -> None:
        board.note(*runs[job], failure)

    try:
        if cluster is None:
            run_all(tuple(runs), crew, say=board.say, ended=ended)
        else:
            run_on_cluster(tuple(runs), cluster, board.folder / JOBS, device, say=board.say, ended=ended)
    except KeyboardInterrupt:
        board.say(f"interrupted; {board.count()} are finished; give the same command to resume the rest ({out})")
        raise
    comparison = board.comparison()
    comparison.save()
    return comparison


@dataclass(frozen=True)
class Variant:
    """A recipe with settings.

    Attributes:
        name: Name of its row in the table.
        recipe: Name or path, as given.
        settings: Settings, as in ``topolearn fit --set``.
        place: Its folder, relative to that of the comparison.
        file: The recipe, with these settings.
        left_out: Common settings that its learner has no option for.
    """

    name: str
    recipe: str
    settings: tuple[tuple[str, str], ...]
    place: Path
    file: RecipeFile = field(compare=False, repr=False)
    left_out: tuple[str, ...] = ()

    def label(self, seed: int) -> str:
        """Return the name of a run in messages."""
        return f"{self.name}, seed {seed}"

    def folder(self, out: Path, seed: int) -> Path:
        """Return the folder of a run."""
        return out / self.place / f"seed-{seed}"

    def command(self, seed: int, out: Path, fixed: Sequence[str]) -> tuple[str, ...]:
        """Return the arguments of ``topolearn`` for a run."""
        changes = [part for key, text in self.settings for part in ("--set", f"{key}={text}")]
        folder = self.folder(out, seed)
        resume = ["--resume"] if holds_run(folder) else []
        return ("fit", self.recipe, *changes, "--seed", str(seed), "--out", str(folder), *resume, *fixed)


class _Board:
    """Keeps track of which runs are finished and which have failed."""

    def __init__(self, variants: tuple[Variant, ...], seeds: tuple[int, ...], folder: Path, quiet: bool) -> None:
        self.variants = variants
        self.seeds = seeds
        self.folder = folder
        self.quiet = quiet
        self.done: dict[tuple[Variant, int], RunSummary] = {}
        self.failed: dict[tuple[Variant, int], str] = {}

    def left(self) -> Iterator[tuple[Variant, int]]:
        """Yield the unfinished runs: all recipes with the first seed, then with the next one."""
        for seed, variant in itertools.product(self.seeds, self.variants):
            if (variant, seed) not in self.done:
                yield variant, seed

    def read(self, variant: Variant, seed: int) -> None:
        """Read a finished run."""
        self.done[variant, seed] = RunSummary.read(variant.folder(self.folder, seed), seed)

    def note(self, variant: Variant, seed: int, failure: str | None) -> None:
        """Record that a run has ended, and write the table so far."""
        if failure is not None:
            self.failed[variant, seed] = failure
            self.say(f"{variant.label(seed)}: failed")
            return
        self.read(variant, seed)
        run = self.done[variant, seed]
        measured = ", ".join(f"{name} {value:{metric_spec(name)}}" for name, value in run.metrics.items())
        self.say(
            f"{variant.label(seed)}: {measured} after {clock(run.seconds)} of training; {self.count()} are finished"
        )
        self.comparison().save()

    def count(self) -> str:
        """Return how many runs are finished, in words."""
        return f"{len(self.done)} of {len(self.variants) * len(self.seeds)} runs"

    def comparison(self) -> Comparison:
        """Return the figures so far."""
        rows = [
            Row(variant.name, tuple(self.done[variant, seed] for seed in self.seeds if (variant, seed) in self.done))
            for variant in self.variants
        ]
        failures = tuple(Failure(variant.name, seed, text) for (variant, seed), text in self.failed.items())
        return Comparison(tuple(rows), self.seeds, self.folder, failures)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        if not self.quiet:
            tell(text)


# -- the runs to do ------------------------------------------------------------------------------


def values(text: str, where: str) -> list[str]:
    """Return the values in ``0.01,0.1`` or ``1,2,4..8``, each as text.

    Args:
        text: YAML values, separated by commas; ``A..B`` means the whole numbers from A to B.
        where: Name of the option, for errors.

    Raises:
        FormatError: The text is not YAML.
        OptionError: There is no value, or there are too many.
    """
    items = parse(f"values: [{text}]", where).root.values["values"]
    assert isinstance(items, Items)
    found: list[str] = []
    for item in items.items:
        plain = item.text if isinstance(item, Scalar) and not item.quoted else ""
        bounds = re.fullmatch(r"(\d{1,19})\.\.(\d{1,19})", plain)
        if bounds is not None and int(bounds[2]) - int(bounds[1]) >= _MOST:
            raise OptionError(f"{where}: has more than {_MOST:,} values; give fewer")
        if bounds is not None:
            found += map(str, range(int(bounds[1]), int(bounds[2]) + 1))
        else:
            found.append(scalar(item.plain()))
    if not found:
        raise OptionError(f"{where}: has no values; write them as 1,2,4 or 1..8")
    return found


def _yaml(value: Any) -> str:
    """Return a value as text for ``--set``; text is returned as it is."""
    return value if isinstance(value, str) else scalar(value)


def _variants(
    recipes: str | Path | Sequence[str | Path], common: Mapping[str, str], vary: Mapping[str, Sequence[Any]]
) -> Iterator[Variant]:
    """Yield every recipe with every combination of the values."""
    listed = [recipes] if isinstance(recipes, str | Path) else list(recipes)
    if not listed:
        raise OptionError("there is nothing to compare; name recipes or graphs")
    for key, given in vary.items():
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise OptionError(f"the values of '{key}' are {shown(given)}, but should be a list, such as [1, 2, 4]")
        if key in common:
            raise OptionError(f"'{key}' is both set and varied; drop one of the two")
    if "seed" in (*common, *vary):
        raise OptionError("'seed' cannot be set or varied; give the seeds with 'seeds' (--seeds 0,1,2)")
    taken: dict[Path, str] = {}
    combinations = list(itertools.product(*(map(_yaml, given) for given in vary.values())))
    wanted = [(str(recipe), dict(zip(vary, each, strict=True))) for recipe in listed for each in combinations]
    learners = [_learner(recipe, common, own) for recipe, own in wanted]
    for (recipe, own), learner in zip(wanted, learners, strict=True):
        left_out = tuple(key for key in common if is_for_others(key, learner, learners))
        settings = {key: text for key, text in common.items() if key not in left_out} | own
        texts = _texts(own)
        asked = " ".join([recipe, *texts])
        with _named(asked):
            read = load_recipe(recipe, settings)
            read.searched.verify()
        place = Path(*(file_name(part) for part in (str(read.name), ",".join(texts)) if part))
        if place in taken:
            raise OptionError(
                f"{asked} and {taken[place]} would share the folder {place}; give recipes different names, and"
                " each value once"
            )
        taken[place] = asked
        name = " ".join([str(read.name), *texts])
        yield Variant(name, recipe, tuple(settings.items()), place, read, left_out)


def _texts(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={text}" for key, text in settings.items()]


def _learner(recipe: str, common: Mapping[str, str], own: Mapping[str, str]) -> str:
    with _named(" ".join([recipe, *_texts(own)])):
        learner = learner_of(recipe, {**common, **own})
        learner_class(learner)  # raises an error if there is none
    return learner


def is_for_others(key: str, learner: str, learners: Sequence[str]) -> bool:
    """Whether a common setting is an option of some of the learners, but not of this one."""
    return (
        key not in TrainOptions.model_fields
        and not is_learner_option(key, learner)
        and any(is_learner_option(key, other) for other in learners)
    )


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(seeds, Sequence):
        raise OptionError(f"'seeds' is {shown(seeds)}, but should be a list of whole numbers, such as [0, 1, 2]")
    chosen = tuple(seeds)
    for seed in chosen:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise OptionError(f"a seed is {shown(seed)}, but should be a whole number, 0 or more")
    if not chosen or len(set(chosen)) < len(chosen):
        raise OptionError(f"the seeds are {shown(list(chosen))}, but should be at least one, each once")
    return chosen


# -- before anything starts ----------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    """Raise an OptionError if the folder holds neither a comparison nor runs of one, but other files."""
    if not (folder / MARKDOWN).is_file():
        runs = {path.relative_to(folder).parts[0] for path in folder.glob("*/**/seed-*")}
        check_folder(folder, {*runs, JOBS})


def _check(board: _Board, device: str, data_root: str | Path | None, *, elsewhere: bool) -> None:
    """Check every run, and read those that are finished.

    Args:
        board: The runs.
        device: The device to check for.
        data_root: Folder in which data sets are looked for first.
        elsewhere: Whether the runs are on other machines, where ``auto`` may have meant another precision.

    Raises:
        TopolearnError: The first thing that is wrong.
    """
    shared = SharedData(data_root)
    for variant, seed in itertools.product(board.variants, board.seeds):
        folder = variant.folder(board.folder, seed)
        with _named(variant.name):
            asked = Recipe.of(variant.file, seed=seed, device=device, data_root=data_root, out=folder, resume=True)
            if elsewhere and asked.precision == "auto" and holds_run(folder):
                asked = asked.changed(precision=read_config(folder / CONFIG)["precision"])
            finished = prepare(shared.read_for(asked)).is_finished()
        if finished:
            board.read(variant, seed)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Put the recipe's name before an error that has no place in a file."""
    try:
        yield
    except TopolearnError as error:
        if error.location is None:
            error.message = f"{what}: {error.message}"
        raise


def _devices(device: str) -> tuple[str, ...]:
    """Return the devices to use: for ``auto`` every GPU, or the CPU without a GPU."""
    gpus = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (gpus or ("cpu",)) if device == "auto" else (device,)


def _at_once(jobs: int | None) -> int | None:
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise OptionError(f"'jobs' is {shown(jobs)}, but should be the number of runs at a time, 1 or more")
    return jobs


def _crew(devices: tuple[str, ...], jobs: int | None, runs: int) -> Crew:
    at_once = min(jobs or len(devices), runs)
    return Crew(devices, at_once, max(1, torch.get_num_threads() // at_once))
