"""The protocol of edge learners, and what they share."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from topolearn.errors import OptionError, suggest
from topolearn.graph import Graph, Pass, Topology, removal
from topolearn.graph.price import Spent
from topolearn.learners.step_watch import StepWatch, inside_a_step, once_per_step
from topolearn.options import docstring_section, parameters, validate
from topolearn.plugins import load_plugins


class Options(BaseModel):
    """Options of a learner; immutable and checked when made. The string below each field says what it means."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: ``search``, ``fine_tune``, ``retrain`` or ``train``.
        share: Share of all epochs; phases whose share is 0 are skipped.
        search: Whether the learner decides about edges. When the first phase without search starts,
            the topology is frozen and the network pruned.
        weights: What a phase after pruning starts from: ``carry`` the trained weights, or ``fresh`` ones: those
            that the run was given to start from, else a backbone's pretrained and otherwise new ones.
        lr: Peak learning rate of the phase over that of the run.
        continues: Whether the learning rate's schedule runs through the phase before and this one as
            one, instead of starting again; not where the run gives the phase a rate of its own.
        freeze_affine: Whose scale and shift stay as they are: of ``all`` batch normalisations; of the ``weighted``
            ones, which end a branch that a learnable edge weights, and whose scale could make up for that
            weight; None: of none.
        passes: Passes on the pruned graph before the phase; they may change the function.
    """

    name: str
    share: float
    search: bool = False
    weights: Literal["carry", "fresh"] = "carry"
    lr: float = 1.0
    continues: bool = False
    freeze_affine: Literal["all", "weighted"] | None = None
    passes: tuple[Pass, ...] = ()


@dataclass(frozen=True)
class SearchSchedule:
    """What a learner may need to know of the search ahead.

    Attributes:
        steps: Optimiser steps T of the search.
        total_lr: Sum of the learning rates of the weights over those steps.
        peak_lr: The largest of them.
        momentum: Momentum of the weights' optimiser.
    """

    steps: int
    total_lr: float
    peak_lr: float
    momentum: float


RENAMED = {"heed_lr": "on_learning_rate"}
"""Old names of the protocol's methods. Nothing calls them any more, so a learner that still has one is refused."""


class EdgeLearner(nn.Module, ABC):
    """Decides about the learnable edges of one graph.

    A *draw* (masks, gate noise) lasts until :meth:`after_step`: repeated calls see the same one. In
    ``eval()`` nothing is drawn. The optimisers of ``topolearn.optimizers`` call :meth:`after_step`; a loop with other
    optimisers calls it after each step.

    A learner declares its options once, as the fields of ``options_type``. The constructor takes them as keywords and
    checks them; ``help``, ``inspect.signature``, ``topolearn list`` and ``--set`` show or take the same ones. A learner
    with parameters or buffers extends the constructor: ``def __init__(self, graph, **options)``, which first calls
    ``super().__init__(graph, **options)``.

    Class attributes:
        learner_name: Name in the registry; until it is registered, that of the class.
        options_type: Its options, none by default.
        shares_optimizer: Whether its parameters go into the weights' optimiser, as groups of their
            own; otherwise plain SGD moves them.
        recalibrates: Whether the statistics of batch normalisations are computed again on training data when the
            search has ended and the network is pruned.
        prunes_by: Options that decide what is kept of a search that has ended, the others act in training only; None
            where all may.
        capturable: Whether a CUDA graph can hold its step: :meth:`draw` makes all its random numbers,
            and nothing else reads from the device or depends on the step's number. An instance whose options
            say otherwise sets its own.

    Attributes:
        graph: The searched graph.
        options: The checked options.
        candidates: Where the learnable edges are.
        fan_in: Candidates that each node keeps, None for a method without that limit.

    Raises:
        OptionError: An unknown option or an invalid value.
    """

    __signature__: ClassVar[inspect.Signature]
    learner_name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    shares_optimizer: ClassVar[bool] = False
    recalibrates: ClassVar[bool] = False
    prunes_by: ClassVar[frozenset[str] | None] = None
    capturable: bool = False

    graph: Graph
    options: Options
    candidates: Candidates
    fan_in: int | None = None

    def __init__(self, graph: Graph | None = None, **options: Any) -> None:
        super().__init__()
        self.step_watch = StepWatch()
        if graph is None:  # a learner with a constructor of its own sets the attributes itself
            return
        self.options = validate(self.options_type, options, f"learner '{self.learner_name}'")
        self.graph = graph
        self.candidates = Candidates(graph)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Write the options out in the signature and the docstring; refuse old names of methods."""
        super().__init_subclass__(**kwargs)
        if not hasattr(cls.after_step, "is_once_per_step"):
            cls.after_step = once_per_step(cls.after_step)  # type: ignore[method-assign]
        if not hasattr(cls, "learner_name"):
            cls.learner_name = cls.__name__
        for old, new in RENAMED.items():
            if hasattr(cls, old):
                raise ValueError(
                    f"learner '{cls.__name__}' of {cls.__module__} has a method '{old}', which is now called '{new}';"
                    " rename it"
                )
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own):
            named = [parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
            named[0] = named[0].replace(default=inspect.Parameter.empty, annotation=Graph)
            names = {parameter.name for parameter in named}
            own = [*named, *(each for each in parameters(cls.options_type) if each.name not in names)]
        cls.__signature__ = inspect.Signature(own)
        if cls.__doc__ and cls.options_type.model_fields:
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\n{docstring_section(cls.options_type)}\n"

    @abstractmethod
    def edge_weights(self) -> Tensor:
        """(E,) what the forward pass multiplies with; differentiable where learned."""

    def active(self) -> Tensor | None:
        """(E,) bool, the edges that the divisor of ``mean`` counts; None: all in-edges."""
        return None

    def penalty(self) -> Tensor:
        """Scalar to add to the task loss."""
        return torch.zeros((), device=self.edge_weights().device)

    @abstractmethod
    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser settings of its parameters, where the weights learn at ``lr``."""

    def check(self) -> None:
        """Raise an OptionError where no search can start on the device that the learner is on.

        Called before anything of a run is written; what it has to measure for that, it keeps in buffers.
        """

    def begin(self, schedule: SearchSchedule) -> None:
        """Get ready for the search ahead; called before its first step and after a resume."""

    def draw(self) -> None:
        """Fill registered buffers with the random numbers of the step ahead, unless that is done.

        Called before the step, outside what is captured; otherwise :meth:`edge_weights` calls it.
        """

    def end_draw(self) -> None:
        """End the draw; part of :meth:`after_step`, called after one that was replayed on the device."""

    def on_learning_rate(self, lr: float | Tensor) -> None:
        """Called after each optimiser step, before :meth:`after_step`, with the learning rate of that step.

        The optimisers of ``topolearn.optimizers`` call it; with others, your loop does. The gradients of the step are
        still there.

        Args:
            lr: A number, or a scalar on the device where the step is captured.
        """

    @once_per_step
    def after_step(self) -> None:
        """Project or clip the parameters after an optimiser step, and end the draw.

        The optimisers of ``topolearn.optimizers`` call it when all of them have stepped; your loop's own call then
        does nothing. With other optimisers, your loop calls it.
        """

    def step_taken(self, which: int, of: int) -> None:
        """Called after a step of each optimiser from ``topolearn.optimizers``; the last one calls :meth:`after_step`.

        Args:
            which: Number of the optimiser.
            of: How many there are.
        """
        self.step_watch.stepped.add(which)
        if len(self.step_watch.stepped) == of:
            self._end_step()

    def forward_begins(self, parameters: Iterable[Tensor]) -> None:
        """Called by the network before each forward pass in training; warns of a step that nobody has ended.

        Where some of the optimisers have skipped the step (as a ``GradScaler`` lets them), it is ended now.

        Args:
            parameters: Some of the network's, which every step changes.
        """
        changed = self.step_watch.changed([*self.parameters(), *parameters])
        self.step_watch.ended = False
        if not (changed or self.step_watch.stepped) or inside_a_step():
            return
        if self.step_watch.stepped:
            self._end_step()
        elif type(self).after_step is not EdgeLearner.after_step:
            warnings.warn(
                f"the parameters have changed since learner '{self.learner_name}' last drew, but its after_step() was"
                " not called, so nothing new is drawn or learned; take all optimizers from topolearn.optimizers, which"
                " call it and keep momentum and weight decay off the learner, or call it after each step",
                stacklevel=2,
            )
        self.step_watch = StepWatch()
        self.step_watch.changed([*self.parameters(), *parameters])

    def _end_step(self) -> None:
        self.step_watch.ended = False
        self.after_step()
        self.step_watch.ended = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.step_watch = StepWatch()  # parameters have changed, but not by a step

    @abstractmethod
    def topology(self) -> Topology:
        """The closed topology that it would keep now; deterministic."""

    def edge_values(self) -> Tensor:
        """(E,) what it thinks of every edge, kept or not, for pictures: in eval mode, its edge weights."""
        return self.edge_weights()

    def without(self, removed: Collection[int]) -> Topology:
        """The closed topology of all edges but ``removed``, at the weights that kept edges have in eval mode.

        Args:
            removed: Places of learnable edges.
        """
        return removal.without(self.graph, self.edge_values().detach().tolist(), removed)

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The phases that :func:`topolearn.fit` runs."""

    def summary(self) -> Mapping[str, float]:
        """Numbers worth a line of the history, by name."""
        return {}

    def progress(self) -> str:
        """How far the search is, in a few words for the progress line, as ``edges decided 34 %``."""
        return ""

    def spent(self) -> Spent | None:
        """What its budget allowed and what it would keep costs; None where it has none."""
        return None


class Candidates(nn.Module):
    """Where the L learnable edges of a graph are: their places among E edges, and by target.

    Attributes:
        sizes: Number of candidates per target, in canonical order.
        index: (L,) places of the learnable edges among all edges.
        base: (E,) weights of the graph.
        target: (L,) number of each learnable edge's target.
        cell: (L,) place of each learnable edge in a flattened (targets, largest set) table.
        valid: (targets, largest set) cells that hold a candidate.
        count: (targets,) ``sizes`` as a tensor.
    """

    index: Tensor
    base: Tensor
    target: Tensor
    cell: Tensor
    valid: Tensor
    count: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        groups = list(graph.candidates.values())
        self.sizes = tuple(map(len, groups))
        self.width = max(self.sizes, default=0)
        index = [i for group in groups for i in group]
        target = [t for t, group in enumerate(groups) for _ in group]
        cell = [t * self.width + c for t, group in enumerate(groups) for c in range(len(group))]
        valid = [[c < size for c in range(self.width)] for size in self.sizes]
        for name, values in (("index", index), ("target", target), ("cell", cell), ("count", list(self.sizes))):
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        self.register_buffer("base", torch.tensor([edge.weight for edge in graph.edges]), persistent=False)
        self.register_buffer(
            "valid", torch.tensor(valid, dtype=torch.bool).reshape(len(groups), self.width), persistent=False
        )

    def __len__(self) -> int:
        return len(self.index)

    def initial(self) -> Tensor:
        """(L,) the learnable edges' weights in the graph."""
        return self.base[self.index].clone()

    def spread(self, values: Tensor) -> Tensor:
        """(L,) values of the learnable edges -> (E,), fixed edges at their weights."""
        return self.base.to(values.dtype).index_copy(0, self.index, values)

    def table(self, values: Tensor, empty: float) -> Tensor:
        """(L,) -> (targets, largest set), ``empty`` in cells without a candidate."""
        cells = values.new_full((len(self.sizes) * self.width,), empty)
        return cells.index_copy(0, self.cell, values).view(len(self.sizes), self.width)

    def by_target(self, values: Tensor) -> Tensor:
        """(L,) -> (targets,) mean over each target's candidates."""
        sums = values.new_zeros(len(self.sizes)).index_add(0, self.target, values)
        return sums / self.count.to(values.dtype)


def require_learnable(graph: Graph, learner: str) -> None:
    """Raise where ``graph`` has nothing to learn."""
    if not graph.candidates:
        raise OptionError(
            f"graph '{graph.name}' has no learnable edges, so learner '{learner}' has nothing to decide; mark edges"
            " with 'learnable: true', or train it with learner 'fixed'"
        )


def resolve_fan_in(graph: Graph, fan_in: int | None) -> int:
    """``fan_in``, by default half of the largest candidate set, rounded up.

    Raises:
        OptionError: Larger than every candidate set.
    """
    largest = graph.largest_candidate_set
    if fan_in is None:
        return (largest + 1) // 2
    if fan_in > largest > 0:
        raise OptionError(
            f"fan_in {fan_in} is larger than every candidate set of graph '{graph.name}'; use at most {largest}"
        )
    return fan_in


def kept(graph: Graph, chosen: Sequence[bool]) -> list[bool]:
    """(L,) chosen learnable edges -> (E,) kept edges: fixed ones stay unless their weight is 0."""
    keep = [not edge.learnable and edge.weight != 0.0 for edge in graph.edges]
    learnable = (i for group in graph.candidates.values() for i in group)
    for i, value in zip(learnable, chosen, strict=True):
        keep[i] = bool(value)
    return keep


LEARNERS: dict[str, type[EdgeLearner]] = {}
ALIASES: dict[str, str] = {}

_LearnerT = TypeVar("_LearnerT", bound=type[EdgeLearner])


def register_learner(name: str, *aliases: str) -> Callable[[_LearnerT], _LearnerT]:
    """Register a learner class under ``name`` and other names for it.

    Raises:
        ValueError: The name is taken.
    """

    def register(learner: _LearnerT) -> _LearnerT:
        if name in LEARNERS:
            raise ValueError(f"learner '{name}' is already registered by {LEARNERS[name].__module__}")
        learner.learner_name = name
        LEARNERS[name] = learner
        ALIASES.update(dict.fromkeys(aliases, name))
        return learner

    return register


def learner_class(name: str) -> type[EdgeLearner]:
    """The learner called ``name``.

    Raises:
        OptionError: No such learner.
    """
    load_plugins()
    known = ALIASES.get(name, name)
    if known not in LEARNERS:
        raise OptionError(f"unknown learner '{name}'{suggest(name, [*LEARNERS, *ALIASES])}")
    return LEARNERS[known]


def make_learner(name: str, graph: Graph, options: Mapping[str, Any] | None = None) -> EdgeLearner:
    """Make the learner ``name`` for ``graph``.

    Raises:
        OptionError: No such learner or option, an invalid value, or a graph it cannot work on.
    """
    cls = learner_class(name)
    given = dict(options or {})
    for option in given:
        if option not in cls.options_type.model_fields:
            raise OptionError(f"unknown option '{option}' of learner '{name}'{mend_option(option, name)}")
    return cls(graph, **given)


def mend_option(option: str, learner: str) -> str:
    """What to do about an option that a learner does not have: name those that do, else as :func:`suggest`."""
    having = [name for name, cls in LEARNERS.items() if option in cls.options_type.model_fields]
    if having:
        return f"; it is an option of {', '.join(sorted(having))}"
    return suggest(option, learner_class(learner).options_type.model_fields)
