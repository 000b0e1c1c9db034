"""The fields of a network under ``sources`` in a graph file. A file asks for nothing outside of these lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from topolearn.frozen import FrozenMap
from topolearn.graph import Source

MAX_PARAMS = 10**9
"""Most parameters that a file may declare for a network."""

Rate = Annotated[float, Field(ge=0, lt=1)]
WholeNumber = Annotated[int, Field(ge=1, le=100_000)]


class BuilderOptions(BaseModel):
    """BuilderOptions for the builders of all libraries."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_classes: Annotated[int, Field(ge=0, le=100_000)] = 1000


class TorchvisionOptions(BuilderOptions):
    """BuilderOptions for torchvision's builders."""

    dropout: Rate = 0.0
    stochastic_depth_prob: Rate = 0.0
    aux_logits: Literal[False] = False
    image_size: WholeNumber = 224
    init_weights: Literal[False] = False
    transform_input: bool = False


class TimmOptions(BuilderOptions):
    """BuilderOptions for timm's builders."""

    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    img_size: Annotated[int, Field(ge=1, le=8192)] | list[Annotated[int, Field(ge=1, le=8192)]] = 224
    drop_rate: Rate = 0.0
    drop_path_rate: Rate = 0.0
    proj_drop_rate: Rate = 0.0
    attn_drop_rate: Rate = 0.0


class NoOptions(BaseModel):
    """A network of the user's own has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


OPTIONS: dict[str, type[BaseModel]] = {"torchvision": TorchvisionOptions, "timm": TimmOptions, "own": NoOptions}
"""Library -> the options that its builders take from a file."""


class SourceFields(BaseModel):
    """A network that parts come from. The string below each field says what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    library: Literal["torchvision", "timm", "own"]
    """Who builds the network; ``own`` for a class of yours."""
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,120}$")]
    """The model's name in the library; for ``own``, the name of the class or the one it is registered under."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options for the builder, such as num_classes."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{0,40}$")] = ""
    """The library's version when the network was lifted."""
    params: Annotated[NonNegativeInt, Field(le=MAX_PARAMS)]
    """Number of parameters of the network."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Hash of what the network computes; the network that is built must have the same."""

    blocks: Annotated[list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,250}$")]], Field(max_length=1000)] = Field(
        default_factory=list
    )
    """Paths of modules that were not looked into when the network was lifted."""

    def source(self) -> Source:
        """Return the checked source."""
        fields: Mapping[str, Any] = self.model_dump()
        return Source(**{**fields, "options": FrozenMap(self.options), "blocks": tuple(self.blocks)})
