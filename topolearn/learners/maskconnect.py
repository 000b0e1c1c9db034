"""MaskConnect: binary masks with K active entries per node, sampled while they are learned.

Ahmed & Torresani, "MaskConnect: Connectivity Learning by Gradient Descent", ECCV 2018:

    x_j = sum_k m_jk y_k ,   m_jk in {0, 1} ,   sum_k m_jk = K                          (Eq. 1)

Each binary mask m_j is drawn once per step, without replacement, from Multinomial(p_j) with
p_j = m~_j / sum m~_j over real masks m~ in [0, 1]. The gradient g with respect to every binary entry,
active or not, goes straight through to m~. After the search m_j holds the K largest m~_jk. The paper
moves m~ by plain SGD, m~ <- clip(m~ - eta g, 0, 1). Here this is ``update: literal``.

``update: balanced``, the default, is ours and not the paper's. Every draw has sum_k m_jk = K, so the
common part of a node's g_jk says nothing about which candidates to choose. Yet it is most of g: 50 to
100 % of its energy in a CIFAR ResNet-38, enough to drive all masks of a node to one end together. Also,
the size of g differs from graph to graph, so no eta fits all. The balanced update is

    m~_j <- clip(m~_j - s g^_j, 0, 1) ,   g^_j = (g_j - mean g_j) / rms(g_j - mean g_j)

with a step s that follows the learning rate schedule. Measured: nearly every search for a planted
wiring finds it at any s from 0.003 to 0.1, while eta has to fit the problem within about a factor of
ten (if the candidates have much in common, too large an eta drives all masks to 1). In 150 steps of a
ResNet-38 at eta = 10 all masks fell and were at most 0.3 apart within a node; balanced ones were 0.3 to
0.9 apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from topolearn.graph import Graph, Topology
from topolearn.learners.base import (
    EdgeLearner,
    Options,
    Phase,
    kept,
    register_learner,
    require_learnable,
    resolve_fan_in,
)
from topolearn.learners.random_state import RandomState

_NEVER = -200.0
"""Stands for log 0. It is below any log m~ + Gumbel noise (at least -69 - 4), so entries at 0 come last."""
_TINY = 1e-30
_ROUNDING = 1e-6
"""Differences between a node's gradients below this share of them count as rounding errors."""
STEP = 0.03
"""Default step of the balanced update: a mask goes from 0.5 to 0 or 1 within 20 steps in one direction."""
LR_SCALE = 100.0
"""Default learning rate of the literal update, as a multiple of the weights'; see :class:`MaskConnectOptions`."""


class MaskConnectOptions(Options):
    """Options of :class:`MaskConnect`."""

    fan_in: Annotated[int, Field(ge=1)] | None = None
    """K, the number of candidates that each node keeps, at least 1; a node with fewer candidates keeps all. Default:
    half of the largest candidate set, rounded up.
    """
    update: Literal["balanced", "literal"] = "balanced"
    """How the masks move: ``balanced`` (ours) or ``literal`` (the paper's). For the formulas run
    ``help("topolearn.learners.maskconnect")``.
    """
    step: Annotated[float, Field(ge=0, le=1)] | None = None
    """For ``balanced``: s at the peak learning rate, the distance that one step moves the masks of a node (root mean
    square over its candidates). Default: 0.03.
    """
    lr_scale: Annotated[float, Field(ge=0)] | None = None
    """For ``literal``: eta divided by the weights' learning rate. Default: 100. At 1 the masks of a CIFAR ResNet stay
    within 0.1 of their start and nothing is learned; at 100 they reach 0 and 1. On small problems use 1 to 10.
    """
    seed: int = 0
    """Seed of the sampling and of the order that breaks ties."""

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.update == "balanced" and self.lr_scale is not None:
            raise ValueError("'lr_scale' belongs to update 'literal'; with 'balanced' give 'step'")
        if self.update == "literal" and self.step is not None:
            raise ValueError("'step' belongs to update 'balanced'; with 'literal' give 'lr_scale'")
        return self


@final
@register_learner("maskconnect")
class MaskConnect(EdgeLearner):
    """MaskConnect: binary masks with K active entries per node, sampled while they are learned.

    The formulas and their source: ``help("topolearn.learners.maskconnect")``.

    Attributes:
        mask: (L,) real masks m~; they start at 0.5. The graph's weights of learnable edges are not used.
        top_ups: Number of times that a node had fewer than K entries above 0. The rest is then drawn
            uniformly from its other candidates.

    Raises:
        OptionError: A graph without learnable edges, or a fan-in larger than every candidate set.
    """

    options_type = MaskConnectOptions
    prunes_by = frozenset({"fan_in", "seed"})
    capturable = True
    options: MaskConnectOptions
    fan_in: int
    noise: Tensor
    order: Tensor
    before: Tensor
    top_ups: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        require_learnable(graph, self.learner_name)
        seed = self.options.seed
        self.fan_in = resolve_fan_in(graph, self.options.fan_in)
        self.mask = nn.Parameter(torch.full((len(self.candidates),), 0.5))
        # Random numbers are drawn outside the part that is compiled, captured or broadcast.
        self.register_buffer("noise", torch.zeros(len(self.candidates)))
        self.register_buffer("before", self.mask.detach().clone())
        self.register_buffer("top_ups", torch.zeros((), dtype=torch.long))
        order = torch.rand(self.candidates.valid.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
        self.register_buffer("order", order, persistent=False)
        self.random = RandomState(seed)
        self._peak = STEP if self.options.step is None else self.options.step
        self._step: float | Tensor = self._peak
        self._pull: Tensor | None = None

    def draw(self) -> None:
        """Fill the step's noise and store the masks that the step starts from."""
        if self.training and not self.random.drawn:
            mask = self.mask.detach()
            self.random.fill(self.noise, self.random.gumbel(len(self.noise)))
            self.before.copy_(mask)
            positive = self.candidates.table((mask > 0).long(), 0).sum(1)
            self.top_ups += (positive < self.candidates.count.clamp(max=self.fan_in)).sum()

    def chosen(self) -> Tensor:
        """Return (L,) bool: the drawn masks; in eval mode the K largest (the seed decides the order of ties)."""
        self.draw()
        mask = self.mask.detach()
        if self.training:
            # The K largest of log p + Gumbel noise are a draw of K without replacement from p. Normalising p
            # shifts all candidates of a node alike, so it is left out.
            # Not torch.where: it would copy the number to the device and wait.
            logs = torch.log(mask.float().clamp(min=_TINY)).masked_fill(mask <= 0, _NEVER)
            scores = logs + self.noise.float()
        else:
            scores = mask
        # A stable sort of the candidates in a seeded random order, so that ties favour no position.
        shuffled = self.candidates.table(scores, -torch.inf).gather(1, self.order)
        best = self.order.gather(1, shuffled.argsort(dim=1, descending=True, stable=True)[:, : self.fan_in])
        picked = torch.zeros_like(self.candidates.valid).scatter(1, best, True) & self.candidates.valid
        return picked.flatten()[self.candidates.cell]

    def edge_weights(self) -> Tensor:
        """Return the (E,) binary masks, with the dense straight-through gradient to m~."""
        binary = self.chosen().to(self.mask.dtype)
        return self.candidates.spread(binary + (self.mask - self.mask.detach()))

    def active(self) -> Tensor:
        """Return (E,) bool: the drawn masks and the fixed edges."""
        base = self.candidates.base != 0
        return base.index_copy(0, self.candidates.index, self.chosen())

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return one group, the masks: plain SGD at ``step``, or at ``lr_scale`` times the weights' rate."""
        if self.options.update == "balanced":
            rate = self._peak
        else:
            rate = lr * (LR_SCALE if self.options.lr_scale is None else self.options.lr_scale)
        return [{"params": [self.mask], "lr": rate, "momentum": 0.0, "weight_decay": 0.0}]

    def on_learning_rate(self, lr: float | Tensor) -> None:
        """Called after each optimiser step with the masks' learning rate; also stores their gradient."""
        self._step = lr
        self._pull = None if self.mask.grad is None else self.mask.grad.detach().clone()

    def after_step(self) -> None:
        """Balance the step, clip the masks to [0, 1], and end the draw."""
        with torch.no_grad():
            if self.options.update == "balanced" and self.random.drawn:
                # Only the optimisers of topolearn.optimizers report the gradient.
                pull = self.before - self.mask if self._pull is None else self._pull
                self.mask.copy_(self.before - self._step * self._balanced(pull))
            self.mask.clamp_(0, 1)
        self._pull = None
        self.end_draw()

    def end_draw(self) -> None:
        """End the draw: the next step draws again."""
        self.random.drawn = False

    def _balanced(self, gradient: Tensor) -> Tensor:
        """Scale (L,) gradients to mean 0 and mean square 1 over each node's candidates; equal ones become 0."""
        average, target = self.candidates.by_target, self.candidates.target
        scaled = gradient / average(gradient.abs())[target].clamp(min=_TINY)  # else small squares underflow to 0
        centred = scaled - average(scaled)[target]
        return centred / average(centred.square()).sqrt()[target].clamp(min=_ROUNDING)

    def topology(self) -> Topology:
        """Return the topology with the K largest m~ of each node, at weight 1."""
        training = self.training
        self.eval()
        chosen = self.chosen().tolist()
        self.train(training)
        return self._keeping(chosen)

    def without(self, removed: Collection[int]) -> Topology:
        """Return the topology of all edges except ``removed``, at weight 1; K plays no role."""
        gone = frozenset(removed)
        return self._keeping([i not in gone for i in self.candidates.index.tolist()])

    def _keeping(self, chosen: Sequence[bool]) -> Topology:
        """Return the closed topology of the (L,) chosen candidates, at weight 1."""
        keep = kept(self.graph, chosen)
        values = self.candidates.spread(self.mask.detach()).tolist()
        weights = [
            1.0 if keep[i] and edge.learnable else values[i] if edge.learnable else edge.weight
            for i, edge in enumerate(self.graph.edges)
        ]
        return Topology(tuple(keep), tuple(weights)).close(self.graph)

    def edge_values(self) -> Tensor:
        """Return the (E,) real masks m~, and the graph's weights for fixed edges."""
        return self.candidates.spread(self.mask)

    def phases(self) -> tuple[Phase, ...]:
        """Return two phases: search with drawn masks, then fine-tune with the masks frozen to the top K.

        One learning rate schedule runs through both, as in a network of fixed wiring. The weights were trained for
        changing wirings and must adapt to the kept one, which a rate that has fallen to 0 would prevent.
        """
        return (Phase("search", 0.5, search=True), Phase("fine_tune", 0.5, continues=True))

    def progress(self) -> str:
        """Return the share of masks that are near 0 or 1."""
        return f"edges decided {self.summary()['decided']:.0%}"

    def summary(self) -> dict[str, float]:
        """Return the range of the masks, the share that is decided, and the number of top-ups so far."""
        mask = self.mask.detach()
        return {
            "mask_min": float(mask.min()),
            "mask_max": float(mask.max()),
            "decided": float(((mask < 0.1) | (mask > 0.9)).float().mean()),
            "top_ups": float(self.top_ups),
        }
