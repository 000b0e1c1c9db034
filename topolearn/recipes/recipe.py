"""The request for a run: one object, checked when it is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PositiveFloat, field_validator
from torch import nn

from topolearn.compiler import Network
from topolearn.compiler.network import unwrapped
from topolearn.errors import OptionError, closest, shown
from topolearn.format import load_graph
from topolearn.graph import Graph
from topolearn.learners import LEARNERS, EdgeLearner, learner_class, make_learner
from topolearn.learners.base import mend_option
from topolearn.options import validate
from topolearn.recipes.recipe_file import (
    DEFAULT_LEARNER,
    Count,
    LearnerSpec,
    Precision,
    RecipeFile,
    Seed,
    is_recipe,
    open_recipe,
    read_recipe,
)
from topolearn.recipes.train_options import TrainOptions
from topolearn.task_kinds import kind_of

DEFAULT_DATA, DEFAULT_TEXT = "digits", "python-source"
"""Default data for a graph that names none: for most graphs, and for text."""


@dataclass(frozen=True)
class Defaults:
    """Default length, batch size, learning rate and training settings of a run."""

    epochs: int
    batch_size: int
    lr: float
    training: Mapping[str, Any] = field(default_factory=dict)


DEFAULTS = {
    "digits": Defaults(epochs=40, batch_size=64, lr=0.1),
    "cifar10": Defaults(epochs=164, batch_size=128, lr=0.1),
    "cifar100": Defaults(epochs=164, batch_size=128, lr=0.1),
    "cifar100-coarse": Defaults(epochs=164, batch_size=128, lr=0.1),
    "fashion_mnist": Defaults(epochs=40, batch_size=128, lr=0.1),
    "voc": Defaults(epochs=50, batch_size=16, lr=0.05),
    "voc-train": Defaults(epochs=50, batch_size=16, lr=0.05),
    "ade20k": Defaults(epochs=120, batch_size=16, lr=0.05),
}
"""By data set. CIFAR follows the ResNet recipe (He et al. 2016), VOC and ADE20K follow SparseMask (Wu et al. 2019),
the other figures are ours."""
TEXT_DEFAULTS = Defaults(
    epochs=12,
    batch_size=32,
    lr=2e-3,
    training={
        "optimizer": "adamw",
        "betas": (0.9, 0.95),
        "weight_decay": 0.1,
        "decay": "matrices",
        "warmup_epochs": 1.0,
        "lr_floor": 0.1,
        "clip_grad_norm": 1.0,
    },
)
"""For all text: 1,200 steps, with the optimiser of GPT-3 (Brown et al. 2020) at a learning rate for small networks."""
OTHER_DEFAULTS = Defaults(epochs=30, batch_size=32, lr=0.05)
"""For all other data, with or without a name."""


class Recipe(BaseModel):
    """A request for a run: the arguments of :func:`topolearn.fit`, complete and checked.

    :meth:`Recipe.of` makes one from the arguments of ``fit``, from a recipe file, or from both.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
    )

    graph: InstanceOf[Graph]
    """The graph to search."""
    start: InstanceOf[Network] | None = None
    """A network made from the graph; training starts from its weights. None: start from ``weights`` or at random."""
    learner: LearnerSpec | InstanceOf[EdgeLearner]
    """A learner's name and options, or a learner made for the graph."""
    data: Any = None
    """What to train on, as given; None if nothing was given."""
    epochs: Count
    """Number of epochs, over all phases."""
    batch_size: Count
    """Images or contexts per step, over all processes."""
    lr: PositiveFloat
    """Peak learning rate of the weights."""
    seed: Seed = 0
    """Seed for everything random."""
    precision: Precision = "auto"
    """``auto``, ``float32`` or ``bfloat16``."""
    training: InstanceOf[TrainOptions] = Field(default_factory=TrainOptions)
    """How the weights are trained."""
    loss: Callable[..., Any] | None = None
    """Function of (outputs, targets); None for the task's loss."""
    metrics: Mapping[Any, Any] | None = None
    """Metrics by name; None for the task's."""
    callbacks: tuple[Callable[..., Any], ...] = ()
    """Called with every record of the history."""
    weights: Path | None = None
    """A safetensors file or the folder of a run to start from; None: start from ``start`` or at random."""
    device: Any = "auto"
    """The device to run on."""
    out: Path | None = None
    """Folder of the run; None writes nothing."""
    resume: Annotated[bool, Field(strict=False)] = False
    """Whether to resume the run in ``out``."""
    data_root: Any = None
    """Folder in which data sets are looked for first."""
    export: Annotated[bool, Field(strict=False)] = True
    """Whether to write an ONNX file and pictures to ``out`` too."""
    quiet: Annotated[bool, Field(strict=False)] = False
    """Whether to hide progress."""

    @field_validator("callbacks", mode="before")
    @classmethod
    def _tuple(cls, callbacks: Any) -> Any:
        return tuple(callbacks)

    @field_validator("out", mode="before")
    @classmethod
    def _folder(cls, out: Any) -> Any:
        if not isinstance(out, str | os.PathLike):
            raise OptionError(f"'out' is the folder of the run, not {shown(out)}")
        return Path(out)

    @field_validator("weights", mode="before")
    @classmethod
    def _file(cls, weights: Any) -> Any:
        if not isinstance(weights, str | Path):
            raise OptionError(f"'weights' is a safetensors file or the folder of a run, not {shown(weights)}")
        return Path(weights)

    @classmethod
    def of(
        cls,
        graph: str | Path | Graph | nn.Module | RecipeFile,
        learner: str | Mapping[str, Any] | EdgeLearner | None = None,
        data: Any = None,
        *,
        training: Mapping[str, Any] | TrainOptions | None = None,
        learner_options: Mapping[str, Any] | None = None,
        **given: Any,
    ) -> Recipe:
        """Make a request from the arguments of :func:`topolearn.fit`.

        An argument wins over the recipe file. What neither gives has its default; the defaults for epochs, batch
        size and learning rate depend on the data.

        Args:
            graph: As in ``fit``; or a recipe file that has been read.
            learner: As in ``fit``.
            data: As in ``fit``.
            training: As in ``fit``.
            learner_options: Options of the learner.
            given: Other arguments of ``fit``, by name.

        Raises:
            TopolearnError: One of its subclasses, if an argument cannot be used.
        """
        file, start, searched = _graph(graph)
        values = {key: value for key, value in given.items() if value is not None}
        check_functions(given.get("loss"), given.get("metrics"), given.get("callbacks", ()))
        if values.get("resume") and "out" not in values:
            raise OptionError("'resume' needs the folder of the run; give it as 'out'")
        if values.get("precision") == "auto":
            del values["precision"]  # the recipe's
        written = {} if file is None else file.settings()
        if data is not None:
            written["data"] = data
        named = _first(written.get("data"), searched.data, _default_data(searched))
        usual = _usual(named, searched)
        own = {
            "graph": searched,
            "start": start,
            "learner": _learner(file, learner, dict(learner_options or {}), searched),
            "training": _training(usual, file, training),
        }
        return validate(cls, {**vars(usual), **written, **values, **own}, "fit")

    @property
    def chosen_data(self) -> Any:
        """The data to train on: as given, else the graph's, else the default for its task."""
        return _first(self.data, self.graph.data, _default_data(self.graph))

    @property
    def names_data(self) -> bool:
        """Whether the request or the graph says what to train on."""
        return self.data is not None or self.graph.data is not None

    def changed(self, **changes: Any) -> Recipe:
        """Return the same request with other values, which must be valid."""
        return self.model_copy(update=changes)

    def make_learner(self) -> EdgeLearner:
        """Return the learner; a ``seed`` option that is not given takes the run's seed.

        Raises:
            OptionError: An unknown learner or option, an invalid value, or a graph that the learner cannot work on.
        """
        if isinstance(self.learner, EdgeLearner):
            return self.learner
        options = self.learner.options
        for option in options:
            _check_option(option, self.learner.name)
        if "seed" in learner_class(self.learner.name).options_type.model_fields:
            options.setdefault("seed", self.seed)
        return make_learner(self.learner.name, self.graph, options)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Yield the fields that differ from their defaults."""
        for name, known in type(self).model_fields.items():
            value = getattr(self, name)
            if value != known.get_default(call_default_factory=True):
                yield name, value


def _first(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)


def _default_data(graph: Graph) -> str:
    """Return the default data for a graph that names none."""
    return DEFAULT_TEXT if kind_of(graph.task).is_text else DEFAULT_DATA


def _graph(
    given: str | Path | Graph | nn.Module | RecipeFile,
) -> tuple[RecipeFile | None, Network | None, Graph]:
    """Return the recipe file, the network to start from, and the graph that ``given`` means."""
    if isinstance(given, str | Path):
        document = open_recipe(given)
        if not is_recipe(document):
            return None, None, load_graph(given)
        given = read_recipe(document)
    if isinstance(given, RecipeFile):
        return given, None, given.searched
    if isinstance(given, Graph):
        return None, None, given.verify()
    net = unwrapped(given)
    if isinstance(net, Network):
        return None, net, net.graph
    raise OptionError(
        f"fit takes a graph, the name or path of one, or a network made from one, not a {type(given).__name__};"
        " compile a graph first, or lift a torchvision network with topolearn.lift"
    )


def _learner(
    file: RecipeFile | None,
    given: str | Mapping[str, Any] | EdgeLearner | None,
    options: dict[str, Any],
    graph: Graph,
) -> LearnerSpec | EdgeLearner:
    """Return the learner to use; a recipe's learner options apply to its own learner only."""
    if isinstance(given, EdgeLearner):
        if options:
            raise OptionError("the learner is already made; give its options where you make it")
        if given.graph != graph:
            raise OptionError(f"the learner was made for graph '{given.graph.name}', which is not this graph")
        return given
    if isinstance(given, Mapping):
        spec = validate(LearnerSpec, given, "the learner")
    elif given is None or isinstance(given, str):
        spec = LearnerSpec(name=DEFAULT_LEARNER) if file is None else file.learner
        if given is not None and given != spec.name:
            spec = LearnerSpec(name=given)
    else:
        raise OptionError(f"a learner is given by name, or made for the graph, but this is {shown(given)}")
    if "name" in options:  # else it would be taken for the learner's
        raise OptionError(f"unknown option 'name' of learner '{spec.name}'{mend_option('name', spec.name)}")
    return LearnerSpec(name=spec.name, **spec.options | options)


def _check_option(option: str, learner: str) -> None:
    """Raise an OptionError if an option that no learner has is probably meant for training, or for ``fit`` itself."""
    if any(option in cls.options_type.model_fields for cls in LEARNERS.values()):
        return
    others = {name: f"training={{'{name}': …}}" for name in TrainOptions.model_fields}
    others |= {name: f"'{name}'" for name in Recipe.model_fields}
    for name in learner_class(learner).options_type.model_fields:
        others.pop(name, None)
    close = closest(option, [*learner_class(learner).options_type.model_fields, *others])
    if close in others:
        raise OptionError(f"unknown option '{option}' of learner '{learner}'; did you mean {others[close]}?")


def _usual(data: Any, graph: Graph) -> Defaults:
    """Return the defaults of a run: those for text if the task is text, else by data set."""
    if kind_of(graph.task).is_text:
        return TEXT_DEFAULTS
    return DEFAULTS.get(data, OTHER_DEFAULTS) if isinstance(data, str) else OTHER_DEFAULTS


def _training(usual: Defaults, file: RecipeFile | None, given: Mapping[str, Any] | TrainOptions | None) -> TrainOptions:
    if isinstance(given, TrainOptions):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise OptionError(f"'training' is a mapping of options, such as {{'schedule': 'step'}}, not {shown(given)}")
    settings = {**usual.training, **({} if file is None else file.training), **(given or {})}
    return validate(TrainOptions, settings, "training")


def check_functions(loss: Any, metrics: Any, callbacks: Any) -> None:
    """Raise an OptionError if the loss, a metric or a callback cannot be called."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise OptionError("'metrics' is a mapping from name to metric, such as {'error': function}")
    if not isinstance(callbacks, tuple | list):
        raise OptionError("'callbacks' is a list of functions, each with one argument: a record of the history")
    given = {"loss": loss, **{f"metrics.{name}": metric for name, metric in (metrics or {}).items()}}
    given |= {f"callbacks[{place}]": callback for place, callback in enumerate(callbacks)}
    for name, function in given.items():
        if not callable(function) and (name != "loss" or function is not None):
            raise OptionError(f"'{name}' is {shown(function)}, but must be a function")
    if "loss" in (metrics or {}):
        raise OptionError("'loss' is the name of the training loss; give the metric another name")
