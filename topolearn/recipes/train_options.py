"""Settings of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_serializer,
    field_validator,
    model_validator,
)

from topolearn.errors import suggest
from topolearn.frozen import FrozenMap

Share = Annotated[float, Field(ge=0, lt=1)]
Milestones = tuple[Annotated[float, Field(gt=0, lt=1)], ...]


class PhaseOptions(BaseModel):
    """How one phase is trained, where it is not as the learner plans it; a number alone is the share."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    share: NonNegativeFloat | None = None
    """Share of the epochs; 0 skips the phase. None: the plan's."""
    lr: PositiveFloat | None = None
    """Peak learning rate of the phase over that of the run. None: the plan's."""
    milestones: Milestones | None = None
    """Of ``step``, as shares of the phase. None: those of all phases."""

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, given: Any) -> Any:
        if isinstance(given, PhaseOptions):
            return given
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}' of a phase{suggest(str(key), cls.model_fields)}")
            return dict(given)
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
            raise ValueError("should be a share of the epochs, 0 or more, or a mapping of share, lr and milestones")
        return {"share": given}

    @field_validator("milestones", mode="before")
    @classmethod
    def _tuple(cls, milestones: Any) -> Any:
        return tuple(milestones) if isinstance(milestones, list) else milestones

    def plain(self) -> float | dict[str, Any]:
        """What is given, in its shortest form."""
        given = self.model_dump(exclude_none=True)
        return float(given["share"]) if list(given) == ["share"] else given


class TrainOptions(BaseModel):
    """How the weights are trained; the same for every learner."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``sgd`` or ``adamw``."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Of SGD."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Of AdamW: how much of the mean gradient and of the mean squared gradient stays from step to step."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of the weights that ``decay`` names; learners decide about their own parameters."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: ``all`` weights, or ``matrices``: those with two axes or more, so no scale, shift or bias."""
    schedule: Literal["cosine", "step", "poly", "constant"] = "cosine"
    """Of the learning rate within each phase: ``cosine`` to ``lr_floor``, ``step`` (a tenth at each milestone),
    ``poly`` ((1 - t)^power), ``constant``.
    """
    lr_floor: Share = 0.0
    """Of ``cosine``: where it ends, as a share of the peak."""
    milestones: Milestones = (0.5, 0.75)
    """Of ``step``, as shares of the phase."""
    power: PositiveFloat = 0.9
    """Of ``poly``."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Linear warm-up at the start of the first phase."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps; None: as ``warmup_epochs`` says."""
    node_lr: Mapping[str, PositiveFloat] = Field(default_factory=FrozenMap)
    """Node id, or a range of ids as ``e[1..9]`` -> learning rate of its weights over that of the run."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the default loss for classification, segmentation and next tokens."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest norm of the weights' gradient, None for no limit."""
    train_images: PositiveInt | None = None
    """Train on so many images only, the same ones for every seed; None for all."""
    steps_per_epoch: Annotated[int, Field(gt=0, le=100_000)] = 100
    """Steps of an epoch of text, which has no length of its own. Images are all seen once per epoch."""
    mean: tuple[float, ...] | None = None
    """Per channel, of pixel values in [0, 1]: what images are normalised by. None: what the given network was trained
    with, else the data's own.
    """
    std: tuple[PositiveFloat, ...] | None = None
    """Likewise, the standard deviation."""
    judge_given: bool = True
    """Whether a trained network of unknown classes that is no better than guessing is an error."""
    augment: bool = True
    """Whether training images are augmented, as the data set has it."""
    crop: tuple[PositiveInt, PositiveInt] | None = None
    """Of images with masks, (height, width) or both as one number: what is cut out of each for training; None for the
    size of the graph's input.
    """
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest factor by which images with masks are scaled before the crop."""
    evaluation: Literal["whole", "sliding"] = "whole"
    """Of images with masks: ``whole`` (each at full size) or ``sliding`` (windows of the crop's size, a third of each
    shared with the next, their logits averaged).
    """
    skip_bad: bool = False
    """Leave out images of a folder, or with masks, that cannot be used, and say so, instead of an error."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load a user's Dataset."""
    phases: Mapping[str, PhaseOptions] = Field(default_factory=FrozenMap)
    """Phase name -> share of the epochs, instead of the learner's plan; 0 skips a phase. For the phase's own learning
    rate too, a mapping of ``share``, ``lr`` and ``milestones``: see :class:`PhaseOptions`.
    """
    channels_last: bool | None = None
    """Whether images and weights are laid out channels last; None: on CUDA."""
    compile: bool = False
    """Whether the network goes through ``torch.compile``."""
    cuda_graph: bool = False
    """Whether a step is captured as a CUDA graph and replayed: on a CUDA device, for batches of one size; see
    :mod:`topolearn.training.capture`.
    """
    deterministic: bool = True
    """Whether CUDA uses deterministic convolutions."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on the validation data; a phase's last epoch has one anyway."""
    checkpoint_steps: PositiveInt | None = None
    """Steps between checkpoints, besides those at the end of each epoch; None: no others."""

    @field_validator("milestones", "scale", "betas", mode="before")
    @classmethod
    def _tuple(cls, given: Any) -> Any:
        return tuple(given) if isinstance(given, list) else given

    @field_validator("crop", mode="before")
    @classmethod
    def _square(cls, crop: Any) -> Any:
        return (crop, crop) if isinstance(crop, int) and not isinstance(crop, bool) else cls._tuple(crop)

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("should be the smallest and the largest factor, in this order")
        return scale

    @field_validator("phases", "node_lr")
    @classmethod
    def _frozen(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return FrozenMap(given)

    @field_serializer("node_lr")
    def _plain_rates(self, rates: Mapping[str, float]) -> dict[str, float]:
        return dict(rates)

    @field_serializer("phases")
    def _plain(self, phases: Mapping[str, PhaseOptions]) -> dict[str, float | dict[str, Any]]:
        return {name: phase.plain() for name, phase in phases.items()}

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainOptions:
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("'nesterov' needs a 'momentum' above 0")
        return self

    def optimizer_options(self) -> dict[str, Any]:
        """Keyword arguments for :func:`topolearn.optimizers`."""
        own: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.optimizer == "adamw":
            own = {"betas": self.betas}
        return {"node_lr": self.node_lr, "decay": self.decay, "weight_decay": self.weight_decay, **own}


def as_phase(given: Any) -> Mapping[str, Any]:
    """What a phase is given, as a mapping: a number is its share, None is nothing."""
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"share": given}
