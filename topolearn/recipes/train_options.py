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

Milestones = tuple[Annotated[float, Field(gt=0, lt=1)], ...]


class PhaseOptions(BaseModel):
    """How one phase is trained, where it is not as the learner plans it; a number alone is the share.

    Attributes:
        share: Share of the epochs; 0 skips the phase. None: the plan's.
        lr: Peak learning rate of the phase over that of the run. None: the plan's.
        milestones: Of ``step``, as shares of the phase. None: those of all phases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    share: NonNegativeFloat | None = None
    lr: PositiveFloat | None = None
    milestones: Milestones | None = None

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
    """How the weights are trained; the same for every learner.

    Attributes:
        optimizer: ``sgd`` or ``adamw``.
        momentum: Of SGD.
        nesterov: Of SGD.
        weight_decay: Of all weights; learners decide about their own parameters.
        schedule: Of the learning rate within each phase: ``cosine`` to 0, ``step`` (a tenth at each
            milestone), ``poly`` ((1 - t)^power), ``constant``.
        milestones: Of ``step``, as shares of the phase.
        power: Of ``poly``.
        warmup_epochs: Linear warm-up at the start of the first phase.
        node_lr: Node id, or a range of ids as ``e[1..9]`` -> learning rate of its weights over that of the run.
        label_smoothing: Of the default loss for classification.
        clip_grad_norm: Largest norm of the weights' gradient, None for no limit.
        train_images: Train on so many images only, the same ones for every seed; None for all.
        augment: Whether training images are augmented, as the data set has it.
        crop: Of images with masks, (height, width) or both as one number: what is cut out of each for
            training; None for the size of the graph's input.
        scale: Smallest and largest factor by which images with masks are scaled before the crop.
        evaluation: Of images with masks: ``whole`` (each at full size) or ``sliding`` (windows of the
            crop's size, a third of each shared with the next, their logits averaged).
        skip_bad: Leave out images with masks that cannot be used, and say so, instead of an error.
        workers: Processes that load a user's Dataset.
        phases: Phase name -> share of the epochs, instead of the learner's plan; 0 skips a phase. For
            the phase's own learning rate too, a mapping of ``share``, ``lr`` and ``milestones``: see
            :class:`PhaseOptions`.
        channels_last: Whether images and weights are laid out channels last; None: on CUDA.
        compile: Whether the network goes through ``torch.compile``.
        cuda_graph: Whether a step is captured as a CUDA graph and replayed: on a CUDA device, for
            batches of one size; see :mod:`topolearn.training.capture`.
        deterministic: Whether CUDA uses deterministic convolutions.
        evaluate_every: Epochs between evaluations on the validation data; a phase's last epoch has one anyway.
        checkpoint_steps: Steps between checkpoints, besides those at the end of each epoch; None: no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["cosine", "step", "poly", "constant"] = "cosine"
    milestones: Milestones = (0.5, 0.75)
    power: PositiveFloat = 0.9
    warmup_epochs: NonNegativeFloat = 0.0
    node_lr: Mapping[str, PositiveFloat] = Field(default_factory=FrozenMap)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_grad_norm: PositiveFloat | None = None
    train_images: PositiveInt | None = None
    augment: bool = True
    crop: tuple[PositiveInt, PositiveInt] | None = None
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    evaluation: Literal["whole", "sliding"] = "whole"
    skip_bad: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    phases: Mapping[str, PhaseOptions] = Field(default_factory=FrozenMap)
    channels_last: bool | None = None
    compile: bool = False
    cuda_graph: bool = False
    deterministic: bool = True
    evaluate_every: PositiveInt = 1
    checkpoint_steps: PositiveInt | None = None

    @field_validator("milestones", "scale", mode="before")
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
        own = {"momentum": self.momentum, "nesterov": self.nesterov} if self.optimizer == "sgd" else {}
        return {"node_lr": self.node_lr, "weight_decay": self.weight_decay, **own}


def as_phase(given: Any) -> Mapping[str, Any]:
    """What a phase is given, as a mapping: a number is its share, None is nothing."""
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"share": given}
