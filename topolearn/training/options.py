"""Settings of a training run."""

from __future__ import annotations

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

from topolearn.frozen import FrozenMap

Share = Annotated[float, Field(ge=0)]


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
        label_smoothing: Of the default loss for classification.
        clip_grad_norm: Largest norm of the weights' gradient, None for no limit.
        augment: Whether training images are augmented, as the data set has it.
        workers: Processes that load a user's Dataset.
        phases: Phase name -> share of the epochs, instead of the learner's plan; 0 skips a phase.
        channels_last: Whether images and weights are laid out channels last.
        compile: Whether the network goes through ``torch.compile``.
        deterministic: Whether CUDA uses deterministic convolutions.
        checkpoint_steps: Steps between checkpoints, besides those at the end of each epoch; None: no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["cosine", "step", "poly", "constant"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    power: PositiveFloat = 0.9
    warmup_epochs: NonNegativeFloat = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_grad_norm: PositiveFloat | None = None
    augment: bool = True
    workers: Annotated[int, Field(ge=0)] = 0
    phases: Mapping[str, Share] = Field(default_factory=dict)
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = True
    checkpoint_steps: PositiveInt | None = None

    @field_validator("milestones", mode="before")
    @classmethod
    def _tuple(cls, milestones: Any) -> Any:
        return tuple(milestones) if isinstance(milestones, list) else milestones

    @field_validator("phases")
    @classmethod
    def _frozen(cls, phases: Mapping[str, float]) -> Mapping[str, float]:
        return FrozenMap(phases)

    @field_serializer("phases")
    def _plain(self, phases: Mapping[str, float]) -> dict[str, float]:
        return dict(phases)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainOptions:
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("'nesterov' needs a 'momentum' above 0")
        return self

    def optimizer_options(self) -> dict[str, Any]:
        """Keyword arguments for :func:`topolearn.optimizers`."""
        if self.optimizer == "sgd":
            return {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}
        return {"weight_decay": self.weight_decay}
