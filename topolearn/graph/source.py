"""Where the parts of a lifted network come from: a library's builder by name, or a network of your own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from topolearn.frozen import EMPTY, FrozenMap

LIBRARIES = ("torchvision", "timm", "own")
"""Who builds a network: a library by the model's name, or you."""

FINGERPRINT = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Source:
    """A network that nodes with op ``part`` take their modules from.

    Attributes:
        library: Who builds it: ``torchvision``, ``timm``, or ``own`` for a class of yours.
        model: The model's name in the library; for ``own``, the name of the class, or the one it is registered under.
        options: Plain options for the builder.
        version: The library's version when the network was lifted; "" for ``own``.
        params: Number of its parameters.
        blocks: Paths of modules that were not looked into.
        fingerprint: Hash of what it computes: of its operations, in order, with the shapes of its tensors.
        net: The network itself, opened; None until it is needed. It is not written, and does not count in ``==``.
    """

    library: str
    model: str
    options: FrozenMap = EMPTY
    version: str = ""
    params: int = 0
    fingerprint: str = ""
    blocks: tuple[str, ...] = ()
    net: Any = field(default=None, compare=False, repr=False)

    def opened(self, net: Any) -> Source:
        """Return the source with its network."""
        return replace(self, net=net)
