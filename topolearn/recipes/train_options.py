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
    """Changes to the learner's plan for one phase; a number alone is the share."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    share: NonNegativeFloat | None = None
    """Share of the epochs; 0 skips the phase. None: as the learner plans."""
    lr: PositiveFloat | None = None
    """Factor on the run's peak learning rate. None: as the learner plans."""
    milestones: Milestones | None = None
    """For schedule ``step``: milestones as shares of the phase. None: the run's ``milestones``."""

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
        """Return the given values in their shortest form: a share alone as a number."""
        given = self.model_dump(exclude_none=True)
        return float(given["share"]) if list(given) == ["share"] else given


class TrainOptions(BaseModel):
    """How the weights are trained, the same for every learner."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser of the weights: ``sgd`` or ``adamw``."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum, for ``sgd``."""
    nesterov: bool = False
    """Whether ``sgd`` uses Nesterov momentum."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """For ``adamw``: decay rates of the running means of the gradient and of its square."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay, for the weights that ``decay`` selects. Learners set it for their own parameters."""
    decay: Literal["all", "matrices"] = "all"
    """Which weights decay: ``all``, or ``matrices``: those with two or more axes, so no scale, shift or bias."""
    schedule: Literal["cosine", "step", "poly", "constant"] = "cosine"
    """Learning rate within each phase: ``cosine`` (down to ``lr_floor``), ``step`` (a tenth at each milestone),
    ``poly`` ((1 - t)^power) or ``constant``.
    """
    lr_floor: Share = 0.0
    """For schedule ``cosine``: last learning rate, as a share of the peak."""
    milestones: Milestones = (0.5, 0.75)
    """For schedule ``step``: where the learning rate drops, as shares of the phase."""
    power: PositiveFloat = 0.9
    """For schedule ``poly``: the exponent."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up at the start of the first phase."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of warm-up, instead of ``warmup_epochs``; None: use ``warmup_epochs``."""
    node_lr: Mapping[str, PositiveFloat] = Field(default_factory=FrozenMap)
    """Node id, or a range of ids such as ``e[1..9]`` -> factor on the learning rate of its weights."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing of the default loss, for classification, segmentation and next tokens."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest norm of the weights' gradient; None for no limit."""
    train_images: PositiveInt | None = None
    """Number of training images to use, the same ones for every seed; None for all."""
    steps_per_epoch: Annotated[int, Field(gt=0, le=100_000)] = 100
    """Steps per epoch of text. An epoch of images shows each image once."""
    validation_tokens: PositiveInt | None = None
    """For text: at most this many tokens are predicted in one evaluation, in contexts evenly spaced over the validation
    text; None for about a million.
    """
    mean: Annotated[tuple[float, ...], Field(min_length=1)] | None = None
    """Mean of each channel for normalising images, for pixel values in [0, 1]. None: as the given network was trained,
    else the mean of the data.
    """
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """Standard deviation of each channel, like ``mean``."""
    judge_given: bool = True
    """Whether to stop if a given trained network has unknown classes and is no better than guessing."""
    augment: bool = True
    """Whether to augment training images, as their data set does it; class folders and your own sets are not augmented.
    """
    crop: tuple[PositiveInt, PositiveInt] | None = None
    """For images with masks: size of the training crops, (height, width) or one number for both; None for the size of
    the graph's input.
    """
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """For images with masks: smallest and largest factor of the random scaling before the crop."""
    evaluation: Literal["whole", "sliding"] = "whole"
    """How to evaluate images with masks: ``whole`` (each at full size) or ``sliding`` (windows of the crop's size that
    overlap by a third, with averaged logits).
    """
    skip_bad: bool = False
    """Whether to leave out images that cannot be used and report them, instead of stopping with an error."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Number of processes that load your own Dataset."""
    phases: Mapping[str, PhaseOptions] = Field(default_factory=FrozenMap)
    """Phase name -> share of the epochs, instead of the learner's plan; 0 skips a phase. To set its learning rate too,
    give a mapping of ``share``, ``lr`` and ``milestones``: see :class:`PhaseOptions`.
    """
    channels_last: bool | None = None
    """Whether images and weights use the channels-last memory layout; None: on CUDA only."""
    compile: bool = False
    """Whether to use ``torch.compile``."""
    cuda_graph: bool = False
    """Whether to capture a step as a CUDA graph and replay it. Needs a CUDA device and batches of one size; see
    :mod:`topolearn.training.capture`.
    """
    deterministic: bool = True
    """Whether CUDA uses deterministic convolutions."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on the validation data; the last epoch of a phase is always evaluated."""
    checkpoint_steps: PositiveInt | None = None
    """Steps between checkpoints, besides the one at the end of each epoch; None for no others."""

    @field_validator("milestones", "mean", "std", "scale", "betas", mode="before")
    @classmethod
    def _tuple(cls, given: Any) -> Any:
        return tuple(given) if isinstance(given, list) else given

    @field_validator("crop", mode="before")
    @classmethod
    def _square(cls, crop: Any) -> Any:
        return (crop, crop) if isinstance(crop, int) and not isinstance(crop, bool) else cls._tuple(crop)

    @field_validator("mean", "std")
    @classmethod
    def _of_pixels(cls, values: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if values is not None and max(values, default=0.0) > 1:
            raise ValueError("should hold numbers up to 1, because pixel values are from 0 to 1; divide by 255")
        return values

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
    """Return the settings of a phase as a mapping: a number is its share, None gives an empty one."""
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else {"share": given}
