"""What a run is: its settings, from arguments, recipes and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from topolearn.errors import CheckpointError, OptionError, shown, suggest
from topolearn.format import library, load_graph
from topolearn.format.tree import Document, parse, read_text
from topolearn.format.writer import scalar
from topolearn.graph import Graph
from topolearn.learners import LEARNERS, learner_class
from topolearn.learners.base import mend_option
from topolearn.options import InvalidOption, tuples, validate
from topolearn.recipes.train_options import TrainOptions

Precision = Literal["auto", "float32", "bfloat16"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Budget:
    """Default length of a run."""

    epochs: int
    batch_size: int
    lr: float


BUDGETS = {
    "digits": Budget(epochs=40, batch_size=64, lr=0.1),
    "cifar10": Budget(epochs=164, batch_size=128, lr=0.1),
    "cifar100": Budget(epochs=164, batch_size=128, lr=0.1),
    "cifar100-coarse": Budget(epochs=164, batch_size=128, lr=0.1),
    "fashion_mnist": Budget(epochs=40, batch_size=128, lr=0.1),
    "voc": Budget(epochs=50, batch_size=16, lr=0.05),
    "voc-train": Budget(epochs=50, batch_size=16, lr=0.05),
    "ade20k": Budget(epochs=120, batch_size=16, lr=0.05),
}
"""By data set: the CIFAR figures are the ResNet recipe's (He et al. 2016), those of VOC and ADE20K the
ones of SparseMask (Wu et al. 2019), the others ours."""
OTHER = Budget(epochs=30, batch_size=32, lr=0.05)


class Settings(BaseModel):
    """How long a run is, and what it draws and computes with.

    Attributes:
        epochs: Over all phases.
        batch_size: Images per step.
        lr: Peak learning rate of the weights.
        seed: Seed of everything random.
        precision: ``auto``, ``float32`` or ``bfloat16``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    seed: Seed
    precision: Precision


class LearnerSpec(BaseModel):
    """A learner by name; every other key is an option of it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str


class Recipe(BaseModel):
    """A recipe file: a graph and how to train it.

    Attributes:
        topolearn: Version of the format, 1.
        name: The recipe's name.
        graph: Name or path of a graph; a path is relative to the recipe.
        graph_set: Dotted path in the graph file -> value, as ``{nodes.head.classes: 10}``.
        learner: Name, or a mapping of ``name`` and options.
        data: Name or folder of a data set.
        epochs: Over all phases.
        batch_size: Images per step.
        lr: Peak learning rate of the weights.
        seed: Seed of everything random.
        precision: ``auto`` is bfloat16 on a GPU that has it, float32 elsewhere.
        training: See :class:`topolearn.recipes.train_options.TrainOptions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    topolearn: Literal[1] = 1
    name: str | None = None
    graph: str
    graph_set: Mapping[str, Any] = Field(default_factory=dict)
    learner: str | LearnerSpec = "maskconnect"
    data: str | None = None
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    lr: PositiveFloat | None = None
    seed: Seed = 0
    precision: Precision = "auto"
    training: Mapping[str, Any] = Field(default_factory=dict)

    def learner_and_options(self) -> tuple[str, dict[str, Any]]:
        """The learner's name and its options."""
        if isinstance(self.learner, str):
            return self.learner, {}
        return self.learner.name, dict(self.learner.model_extra or {})

    def arguments(self) -> dict[str, Any]:
        """What :func:`topolearn.fit` takes besides the graph."""
        name, options = self.learner_and_options()
        given = {key: getattr(self, key) for key in _RUN_KEYS if key != "learner"}
        return {**given, "learner": {"name": name, **options}, "training": self.training}


_RUN_KEYS = ("data", "epochs", "batch_size", "lr", "seed", "precision", "learner")


def is_recipe(document: Document) -> bool:
    """Whether a file is a recipe; graph files have ``nodes``, recipes name a ``graph``."""
    return "graph" in document.root.values and "nodes" not in document.root.values


def open_recipe(name_or_path: str | Path) -> Document:
    """The parsed graph or recipe file that a name or path means; graphs win over recipes of the same name."""
    text = str(name_or_path)
    kind = "models" if text in library.names("models") and text not in library.names("graphs") else "graphs"
    if Path(text).parent.name == "models":
        kind = "models"
    path = library.find(name_or_path, kind)
    return parse(read_text(path), str(path))


def read_recipe(document: Document) -> Recipe:
    """Check a recipe file.

    Raises:
        FormatError: An unknown key or invalid value, located.
    """
    try:
        return validate(Recipe, tuples(document.root.plain()), "a recipe")
    except InvalidOption as error:
        place = document.root.keys.get(error.path[0]) if error.path else None
        value = document.root.values.get(error.path[0]) if error.path else None
        unknown = error.message.startswith("unknown")
        raise document.error(place if unknown else value or place, error.message) from None


def recipe_graph(recipe: Recipe, file: str) -> Graph:
    """The graph of a recipe read from ``file``."""
    beside = Path(file).parent / recipe.graph
    where = beside if beside.is_file() else recipe.graph
    return load_graph(where, {key: scalar(value) for key, value in recipe.graph_set.items()})


def load_recipe(name_or_path: str | Path, settings: Mapping[str, str]) -> tuple[Recipe, Graph]:
    """The recipe, with a name, and its graph; a graph alone is a recipe of its defaults.

    Args:
        name_or_path: Of a recipe or a graph.
        settings: As of :func:`apply_settings`.

    Raises:
        TopolearnError: A file that cannot be used, or a setting that is none.
    """
    document = open_recipe(name_or_path)
    recipe = read_recipe(document) if is_recipe(document) else Recipe(graph=document.file)
    recipe = apply_settings(recipe, settings)
    graph = recipe_graph(recipe, document.file)
    learner, _ = recipe.learner_and_options()
    return recipe.model_copy(update={"name": recipe.name or f"{graph.name}-{learner}"}), graph


def apply_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """A recipe with ``--set KEY=VALUE`` settings applied.

    A key is one of the recipe's own, an option of the learner, a training option (``phases.NAME``
    for a phase's share, ``phases.NAME.lr`` and ``phases.NAME.milestones`` for its learning rate), or
    a path in the graph file, which starts with ``nodes.``, ``inputs.`` …

    Raises:
        OptionError: A key that is none of these.
    """
    values = recipe.model_dump(exclude_none=True)
    learner, own = recipe.learner_and_options()
    training: dict[str, Any] = dict(values.get("training", {}))
    graph_set: dict[str, Any] = dict(values.get("graph_set", {}))
    if "learner" in settings:
        learner, own = settings["learner"], {} if settings["learner"] != learner else own
    options = learner_class(learner).options_type.model_fields
    for key, text in settings.items():
        value = tuples(parse(f"value: {text}", f"--set {key}={text}").root.values["value"].plain())
        head, _, rest = key.partition(".")
        if key == "learner":
            continue
        if key in _RUN_KEYS:
            values[key] = value
        elif is_learner_option(key, learner):
            own[rest or key] = value
        elif head == "phases" and rest:
            training["phases"] = _changed_phase(training.get("phases", {}), rest, value)
        elif key in TrainOptions.model_fields or (head == "training" and rest in TrainOptions.model_fields):
            training[rest or key] = value
        elif head in ("nodes", "inputs", "edges", "outputs", "name", "task"):
            graph_set[key] = value
        elif any(is_learner_option(key, other) for other in LEARNERS):
            raise OptionError(f"--set {key}: learner '{learner}' has no such option{mend_option(rest or key, learner)}")
        else:
            known = [*_RUN_KEYS, *options, *TrainOptions.model_fields, "nodes.…", "phases.…"]
            raise OptionError(f"--set {key}: unknown setting{suggest(key, known)}")
    values |= {"learner": {"name": learner, **own}, "training": training, "graph_set": graph_set}
    return validate(Recipe, values, "--set")


def is_learner_option(key: str, learner: str) -> bool:
    """Whether a key of ``--set`` is an option of this learner."""
    named, _, option = key.rpartition(".")
    known = learner_class(learner).options_type.model_fields
    return option in known and (named == "learner" or (not named and key not in _RUN_KEYS))


def learner_of(name_or_path: str | Path, settings: Mapping[str, str]) -> str:
    """The learner of a recipe or a graph, with settings applied, without reading the graph.

    Raises:
        TopolearnError: A file that cannot be used.
    """
    if "learner" in settings:
        return settings["learner"]
    document = open_recipe(name_or_path)
    recipe = read_recipe(document) if is_recipe(document) else Recipe(graph=document.file)
    return recipe.learner_and_options()[0]


def _changed_phase(phases: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The phases with ``value`` at ``NAME`` (false: 0, the phase is switched off) or ``NAME.lr``."""
    if not isinstance(phases, Mapping):
        raise OptionError(f"'phases' of training is {shown(phases)}, but it should map names of phases to shares")
    name, _, key = path.partition(".")
    if isinstance(value, bool):
        value = float(value)
    before = _phase(phases.get(name))
    if key:
        return {**phases, name: {**before, key: value}}
    # A number changes the share and leaves the rest of what the phase has.
    whole = isinstance(value, Mapping) or not before.keys() - {"share"}
    return {**phases, name: value if whole else {**before, "share": value}}


def _phase(given: Any) -> Mapping[str, Any]:
    """What a phase is given, as a mapping."""
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"share": given}


_MAY_CHANGE = ("training.workers", "training.checkpoint_steps")
"""Settings without a say in what comes out of a run."""


def compare_config(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path, within: str = "") -> None:
    """Raise where a run's settings differ from those it began with."""
    for key in {**old, **new}:
        name, was, wanted = f"{within}{key}", old.get(key), new.get(key)
        if within == "training.phases.":  # a number is short for the share
            was, wanted = _phase(was), _phase(wanted)
        if isinstance(was, Mapping) and isinstance(wanted, Mapping):
            compare_config(was, wanted, folder, f"{name}.")
        elif was != wanted and name not in _MAY_CHANGE:
            raise CheckpointError(
                f"the run in {folder} began with {name} {scalar(was)}, not {scalar(wanted)};"
                " resume it with the same settings, or choose another folder"
            )
