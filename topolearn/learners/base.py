"""The protocol of edge learners, their registry, and code that they share."""

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
from topolearn.learners.trial import Trial
from topolearn.options import docstring_section, parameters, validate
from topolearn.plugins import load_plugins


class Options(BaseModel):
    """Options of a learner: immutable, and checked when made. The string below each field documents it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: ``search``, ``fine_tune``, ``retrain`` or ``train``.
        share: Share of all epochs; a phase with share 0 is skipped.
        search: Whether the learner decides about edges. When the first phase without search starts,
            the topology is frozen and the network pruned.
        weights: The weights that a phase after pruning starts from. ``carry``: the trained ones. ``fresh``: the
            weights that the run was given to start from, else a backbone's pretrained weights and new ones elsewhere.
        lr: Peak learning rate of the phase, as a multiple of the run's.
        continues: Whether one schedule of the learning rate runs through the previous phase and this one, instead of
            starting again. It has no effect if the run sets a learning rate for this phase.
        freeze_affine: Batch normalisations that keep their scale and shift: ``all``; ``weighted``: those that end a
            branch with a learnable edge weight, because their scale could compensate for the weight; None: all train.
        passes: Passes that run on the pruned graph before the phase; they may change the function.
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
    """Length and learning rates of the search ahead, for learners that need them.

    Attributes:
        steps: Optimiser steps T of the search.
        total_lr: Sum of the weights' learning rates over those steps.
        peak_lr: Largest of these learning rates.
        momentum: Momentum of the weights' optimiser.
    """

    steps: int
    total_lr: float
    peak_lr: float
    momentum: float


RENAMED = {"heed_lr": "on_learning_rate"}
"""Old names of the protocol's methods. Nothing calls them any more, so a learner that has one is refused."""


class EdgeLearner(nn.Module, ABC):
    """A method that decides which learnable edges of a graph stay; the base class of all learners.

    A *draw* (masks, gate noise) lasts until :meth:`after_step`: repeated calls see the same one. In
    ``eval()`` nothing is drawn. The optimisers of ``topolearn.optimizers`` call :meth:`after_step`; a loop with other
    optimisers calls it after each step.

    A learner declares its options once, as the fields of ``options_type``. The constructor takes them as keywords and
    checks them; ``help``, ``inspect.signature``, ``topolearn list`` and ``--set`` show or take the same ones. A learner
    with parameters or buffers extends the constructor: ``def __init__(self, graph, **options)``, which first calls
    ``super().__init__(graph, **options)``.

    Class attributes:
        learner_name: Name in the registry; before registration, the name of the class.
        options_type: Class of the options; by default one without fields.
        shares_optimizer: Whether the learner's parameters join the weights' optimiser, in separate groups. If not,
            plain SGD updates them.
        recalibrates: Whether batch normalisation statistics are computed again, on training data, after the search has
            ended and the network is pruned.
        prunes_by: Options that decide what is kept after a search; the others act in training only. None: all
            options may decide.
        scores_blocks: Whether the learner decides by :meth:`score`, on a trained network, instead of by a search.
        capturable: Whether a CUDA graph can hold the learner's step. It can if :meth:`draw` makes all random numbers
            and nothing else reads from the device or depends on the step's number. An instance may set its own value,
            depending on its options.

    Attributes:
        graph: The searched graph.
        options: The checked options.
        candidates: Positions of the learnable edges.
        fan_in: Candidates that each node keeps; None for a method without that limit.

    Raises:
        OptionError: An unknown option or an invalid value.
    """

    __signature__: ClassVar[inspect.Signature]
    learner_name: ClassVar[str]
    options_type: ClassVar[type[Options]] = Options
    shares_optimizer: ClassVar[bool] = False
    recalibrates: ClassVar[bool] = False
    prunes_by: ClassVar[frozenset[str] | None] = None
    scores_blocks: ClassVar[bool] = False
    capturable: bool = False

    graph: Graph
    options: Options
    candidates: Candidates
    fan_in: int | None = None

    def __init__(self, graph: Graph | None = None, **options: Any) -> None:
        super().__init__()
        self.step_watch = StepWatch()
        if graph is None:  # a learner with its own constructor sets the attributes itself
            return
        self.options = validate(self.options_type, options, f"learner '{self.learner_name}'")
        self.graph = graph
        self.candidates = Candidates(graph)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Add the options to the signature and the docstring; refuse old names of methods."""
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
        """Return the (E,) edge weights of the forward pass; learned ones are differentiable."""

    def active(self) -> Tensor | None:
        """Return (E,) bool, the edges that ``mean`` divides by; None: all in-edges."""
        return None

    def penalty(self) -> Tensor:
        """Return the scalar that is added to the task loss."""
        return torch.zeros((), device=self.edge_weights().device)

    @abstractmethod
    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the optimiser groups of the learner's parameters, given the weights' learning rate ``lr``."""

    def check(self) -> None:
        """Raise an OptionError if no search can start on the learner's device.

        Called before a run writes anything. A learner keeps what it measures here in buffers.
        """

    def begin(self, schedule: SearchSchedule) -> None:
        """Prepare for the search ahead; called before its first step and after a resume."""

    def draw(self) -> None:
        """Fill registered buffers with the random numbers of the next step, unless they are already drawn.

        Called before the step, outside the captured part; otherwise :meth:`edge_weights` calls it.
        """

    def end_draw(self) -> None:
        """End the draw: part of :meth:`after_step`, and called after a step that was replayed on the device."""

    def on_learning_rate(self, lr: float | Tensor) -> None:
        """Called after each optimiser step, before :meth:`after_step`, with the learning rate of that step.

        The optimisers of ``topolearn.optimizers`` call it; with other optimisers, your loop does. The gradients of
        the step are still available.

        Args:
            lr: A number, or a scalar on the device if the step is captured.
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
            of: Number of these optimisers.
        """
        self.step_watch.stepped.add(which)
        if len(self.step_watch.stepped) == of:
            self._end_step()

    def forward_begins(self, parameters: Iterable[Tensor]) -> None:
        """Called by the network before each forward pass in training; warns if the last step was not ended.

        If some of the optimisers skipped the step (a ``GradScaler`` can do that), the step is ended now.

        Args:
            parameters: Some of the network's parameters, which every step changes.
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

    def score(self, trial: Trial) -> None:
        """Score the edges of a trained network, before it is pruned; called if ``scores_blocks`` is true.

        No weight is trained. What is measured is kept in buffers, so that a run can go on between two evaluations.

        Args:
            trial: The network on some training batches.
        """

    @abstractmethod
    def topology(self) -> Topology:
        """Return the closed topology that the learner would keep now; deterministic."""

    def edge_values(self) -> Tensor:
        """Return the learner's (E,) rating of every edge, kept or not, for pictures: edge weights, in eval mode."""
        return self.edge_weights()

    def without(self, removed: Collection[int]) -> Topology:
        """Return the closed topology of all edges except ``removed``; kept edges have their weights of eval mode.

        Args:
            removed: Positions of learnable edges.
        """
        return removal.without(self.graph, self.edge_values().detach().tolist(), removed)

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases that :func:`topolearn.fit` runs."""

    def summary(self) -> Mapping[str, float]:
        """Return named numbers for the history."""
        return {}

    def progress(self) -> str:
        """Return the state of the search in a few words for the progress line, such as ``edges decided 34 %``."""
        return ""

    def spent(self) -> Spent | None:
        """Return the cost that the budget allows and the cost of what would be kept; None without a budget."""
        return None


class Candidates(nn.Module):
    """Positions of a graph's L learnable edges, among its E edges and by target.

    Attributes:
        sizes: Number of candidates per target, in canonical order.
        index: (L,) positions of the learnable edges among all edges.
        base: (E,) weights in the graph.
        target: (L,) number of each learnable edge's target.
        cell: (L,) position of each learnable edge in a flattened (targets, largest set) table.
        valid: (targets, largest set) bool, the cells that hold a candidate.
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
        """Return the (L,) weights of the learnable edges in the graph."""
        return self.base[self.index].clone()

    def spread(self, values: Tensor) -> Tensor:
        """Extend (L,) values of the learnable edges to (E,); fixed edges get their weights."""
        return self.base.to(values.dtype).index_copy(0, self.index, values)

    def table(self, values: Tensor, empty: float) -> Tensor:
        """Arrange (L,) values as (targets, largest set), with ``empty`` in cells without a candidate."""
        cells = values.new_full((len(self.sizes) * self.width,), empty)
        return cells.index_copy(0, self.cell, values).view(len(self.sizes), self.width)

    def by_target(self, values: Tensor) -> Tensor:
        """Average (L,) values over each target's candidates: (targets,)."""
        sums = values.new_zeros(len(self.sizes)).index_add(0, self.target, values)
        return sums / self.count.to(values.dtype)


def require_learnable(graph: Graph, learner: str) -> None:
    """Raise an OptionError if ``graph`` has no learnable edges."""
    if not graph.candidates:
        raise OptionError(
            f"graph '{graph.name}' has no learnable edges, so learner '{learner}' has nothing to decide; mark edges"
            " with 'learnable: true', or train it with learner 'fixed'"
        )


def resolve_fan_in(graph: Graph, fan_in: int | None) -> int:
    """Return ``fan_in``; by default half of the largest candidate set, rounded up.

    Raises:
        OptionError: ``fan_in`` is larger than every candidate set.
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
    """Extend (L,) chosen learnable edges to (E,) kept edges; fixed edges stay unless their weight is 0."""
    keep = [not edge.learnable and edge.weight != 0.0 for edge in graph.edges]
    learnable = (i for group in graph.candidates.values() for i in group)
    for i, value in zip(learnable, chosen, strict=True):
        keep[i] = bool(value)
    return keep


LEARNERS: dict[str, type[EdgeLearner]] = {}
ALIASES: dict[str, str] = {}

_LearnerT = TypeVar("_LearnerT", bound=type[EdgeLearner])


def register_learner(name: str, *aliases: str) -> Callable[[_LearnerT], _LearnerT]:
    """Register a learner class under ``name`` and aliases.

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
    """Return the learner class called ``name``.

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
        OptionError: No such learner or option, an invalid value, or a graph that the learner cannot work on.
    """
    cls = learner_class(name)
    given = dict(options or {})
    for option in given:
        if option not in cls.options_type.model_fields:
            raise OptionError(f"unknown option '{option}' of learner '{name}'{mend_option(option, name)}")
    return cls(graph, **given)


def mend_option(option: str, learner: str) -> str:
    """Return a hint for an unknown option: the learners that have it, else a similar name (:func:`suggest`)."""
    having = [name for name, cls in LEARNERS.items() if option in cls.options_type.model_fields]
    if having:
        return f"; it is an option of {', '.join(sorted(having))}"
    return suggest(option, learner_class(learner).options_type.model_fields)
