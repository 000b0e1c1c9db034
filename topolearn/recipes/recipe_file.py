"""Recipe files, which name a graph and how to train it, and ``--set`` on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator

from topolearn.errors import OptionError, shown, suggest
from topolearn.format import library, load_graph
from topolearn.format.tree import Document, parse, read_text
from topolearn.format.writer import scalar
from topolearn.graph import Graph
from topolearn.learners import LEARNERS, learner_class
from topolearn.learners.base import mend_option
from topolearn.learners.costs import without_replaced_budget
from topolearn.options import InvalidOption, tuples, validate, with_option
from topolearn.recipes.train_options import TrainOptions, as_phase

Precision = Literal["auto", "float32", "bfloat16"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=10**9)]


DEFAULT_LEARNER = "maskconnect"


class LearnerSpec(BaseModel):
    """A learner by name; every other key is one of its options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The learner's options, as given."""
        return dict(self.model_extra or {})


class RecipeFile(BaseModel):
    """The content of a recipe file: a graph and how to train it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    topolearn: Literal[1] = 1
    """Version of the format: 1."""
    name: str | None = None
    """The recipe's name."""
    graph: str
    """Name or path of a graph; a path in a file is relative to that file."""
    graph_set: Mapping[str, Any] = Field(default_factory=dict)
    """Changes to the graph file: dotted path -> value, such as ``{nodes.head.classes: 10}``."""
    learner: LearnerSpec = LearnerSpec(name=DEFAULT_LEARNER)
    """Name of the learner, or a mapping of ``name`` and options."""
    data: str | None = None
    """Name of a data set, a folder or a text file."""
    epochs: Count | None = None
    """Number of epochs, over all phases."""
    batch_size: Count | None = None
    """Images or contexts per step."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the weights."""
    seed: Seed = 0
    """Seed for everything random."""
    precision: Precision = "auto"
    """``auto`` is bfloat16 on a GPU that supports it, float32 elsewhere."""
    training: Mapping[str, Any] = Field(default_factory=dict)
    """Training options: see :class:`topolearn.recipes.train_options.TrainOptions`."""

    @field_validator("learner", mode="before")
    @classmethod
    def _by_name(cls, learner: Any) -> Any:
        if not isinstance(learner, str | Mapping | LearnerSpec):
            raise ValueError("should be text, or a mapping")
        return LearnerSpec(name=learner) if isinstance(learner, str) else learner

    @cached_property
    def searched(self) -> Graph:
        """The graph, with ``graph_set`` applied."""
        return load_graph(self.graph, {key: scalar(value) for key, value in self.graph_set.items()})

    def settings(self) -> dict[str, Any]:
        """Return the file's data, epochs, batch size, learning rate, seed and precision, by name, if given."""
        values = {key: getattr(self, key) for key in _RUN_KEYS if key != "learner"}
        return {key: value for key, value in values.items() if value is not None}


_RUN_KEYS = ("data", "epochs", "batch_size", "lr", "seed", "precision", "learner")


def is_recipe(document: Document) -> bool:
    """Whether a file is a recipe: recipes name a ``graph``, graph files have ``nodes``."""
    return "graph" in document.root.values and "nodes" not in document.root.values


def open_recipe(name_or_path: str | Path) -> Document:
    """Find and parse a graph or recipe file; a graph wins over a recipe of the same name."""
    text = str(name_or_path)
    kind = "models" if text in library.names("models") and text not in library.names("graphs") else "graphs"
    if Path(text).parent.name == "models":
        kind = "models"
    path = library.find(name_or_path, kind)
    return parse(read_text(path), str(path))


def read_recipe(document: Document) -> RecipeFile:
    """Check a recipe file. Its graph is looked for beside the file first.

    Raises:
        FormatError: An unknown key or invalid value, with file and line.
    """
    try:
        recipe = validate(RecipeFile, tuples(document.root.plain()), "a recipe")
    except InvalidOption as error:
        place = document.root.keys.get(error.path[0]) if error.path else None
        value = document.root.values.get(error.path[0]) if error.path else None
        unknown = error.message.startswith("unknown")
        raise document.error(place if unknown else value or place, error.message) from None
    beside = Path(document.file).parent / recipe.graph
    return recipe.model_copy(update={"graph": str(beside)}) if beside.is_file() else recipe


def load_recipe(name_or_path: str | Path, settings: Mapping[str, str]) -> RecipeFile:
    """Load a recipe, apply command-line settings, and give it a name if it has none.

    A graph alone counts as a recipe with defaults.

    Args:
        name_or_path: Name or path of a recipe or a graph.
        settings: As in :func:`apply_settings`.

    Raises:
        TopolearnError: The file cannot be used, or a setting is unknown.
    """
    document = open_recipe(name_or_path)
    recipe = apply_settings(_read(document), settings)
    if recipe.name is not None:
        return recipe
    return recipe.model_copy(update={"name": f"{recipe.searched.name}-{recipe.learner.name}"})


def _read(document: Document) -> RecipeFile:
    return read_recipe(document) if is_recipe(document) else RecipeFile(graph=document.file)


def apply_settings(recipe: RecipeFile, settings: Mapping[str, str]) -> RecipeFile:
    """Return a recipe with ``--set KEY=VALUE`` settings applied.

    A key is a key of the recipe, an option of the learner, a training option (``phases.NAME``
    for a phase's share, ``phases.NAME.lr`` and ``phases.NAME.milestones`` for its learning rate), or
    a path in the graph file, which starts with ``nodes.``, ``inputs.`` … A dot leads to an entry of an option:
    ``budget.macs``.

    Raises:
        OptionError: Any other key.
    """
    values = recipe.model_dump(exclude_none=True)
    learner, own = recipe.learner.name, recipe.learner.options
    training: dict[str, Any] = dict(values.get("training", {}))
    graph_set: dict[str, Any] = dict(values.get("graph_set", {}))
    if "learner" in settings:
        learner, own = settings["learner"], {} if settings["learner"] != learner else own
    own = without_replaced_budget(own, settings)
    options = learner_class(learner).options_type.model_fields
    for key, text in settings.items():
        value = tuples(parse(f"value: {text}", f"--set {key}={text}").root.values["value"].plain())
        head, _, rest = key.partition(".")
        if key == "learner":
            continue
        if key.endswith("."):
            raise OptionError(f"--set {key}: unknown setting; leave out the last '.'")
        if key in _RUN_KEYS:
            values[key] = value
        elif is_learner_option(key, learner):
            own = with_option(own, key.removeprefix("learner."), value)
        elif head == "phases" and rest:
            training["phases"] = _changed_phase(training.get("phases", {}), rest, value)
        elif key.removeprefix("training.").partition(".")[0] in TrainOptions.model_fields:
            training = with_option(training, key.removeprefix("training."), value)
        elif head in ("nodes", "inputs", "edges", "outputs", "name", "task"):
            graph_set[key] = value
        elif any(is_learner_option(key, other) for other in LEARNERS):
            option = key.removeprefix("learner.").partition(".")[0]
            raise OptionError(f"--set {key}: learner '{learner}' has no such option{mend_option(option, learner)}")
        else:
            known = [*_RUN_KEYS, *options, *TrainOptions.model_fields, "nodes.…", "phases.…"]
            raise OptionError(f"--set {key}: unknown setting{suggest(key, known)}")
    values |= {"learner": {"name": learner, **own}, "training": training, "graph_set": graph_set}
    return validate(RecipeFile, values, "--set")


def settings_of(learner: str, settings: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``--set`` settings as options of a learner and of training, for a command that reads no graph file.

    Raises:
        OptionError: Any other key.
    """
    asked = apply_settings(RecipeFile(graph="", learner=LearnerSpec(name=learner)), settings)
    for key in settings:
        if key in _RUN_KEYS:
            raise OptionError(f"--set {key}: this command has its own option for it: --{key.replace('_', '-')}")
        if key in asked.graph_set:
            raise OptionError(
                f"--set {key}: this command reads no graph file; give an option of training or of '{learner}'"
            )
    return asked.learner.options, dict(asked.training)


def is_learner_option(key: str, learner: str) -> bool:
    """Whether a ``--set`` key is an option of this learner, or an entry of one, such as ``budget.macs``."""
    option = key.removeprefix("learner.").partition(".")[0]
    return option in learner_class(learner).options_type.model_fields and key not in _RUN_KEYS


def learner_of(name_or_path: str | Path, settings: Mapping[str, str]) -> str:
    """Return the name of the learner of a recipe or graph, with settings applied, without reading the graph.

    Raises:
        TopolearnError: The file cannot be used.
    """
    if "learner" in settings:
        return settings["learner"]
    return _read(open_recipe(name_or_path)).learner.name


def _changed_phase(phases: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the phases with ``value`` at ``NAME`` (false means 0, which skips the phase) or ``NAME.lr``."""
    if not isinstance(phases, Mapping):
        raise OptionError(f"'phases' of training is {shown(phases)}, but it should map names of phases to shares")
    name, _, key = path.partition(".")
    if isinstance(value, bool):
        value = float(value)
    before = as_phase(phases.get(name))
    if key:
        return {**phases, name: {**before, key: value}}
    # A number changes the share and keeps the phase's other settings.
    whole = isinstance(value, Mapping) or not before.keys() - {"share"}
    return {**phases, name: value if whole else {**before, "share": value}}
