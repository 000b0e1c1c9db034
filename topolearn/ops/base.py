"""What an op is: parameters, a shape rule and a cost rule, registered under a name.

A *node op* transforms the tensor its node aggregated; an *edge op* carries a source's output to
the input that the target node declares. The modules that compute them live in
``topolearn.compiler.modules``; nothing here imports torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from topolearn.errors import OptionError, suggest
from topolearn.frozen import FrozenMap
from topolearn.ops.shape import Bundle, Cost, Shape, Size
from topolearn.options import validate


class ShapeError(Exception):
    """An op that cannot take a shape: what is wrong and the mend, without the place."""


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that the output has ceil(size / stride) positions")
    return value


MAX_INT = 2**31 - 1
"""Largest size that a parameter may ask for."""

WIDTHS = ("channels", "out_channels", "out_features", "classes")
"""What ops call the size of their output; no op has two of them. A file may use any of them for any op."""

PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
OddInt = Annotated[int, Field(gt=0, le=MAX_INT), AfterValidator(_odd)]


Sight = Literal["itself", "earlier", "all"]
"""Which tokens a token depends on: its own place alone, those before it too, or all."""


class Op(BaseModel):
    """Parameters of an op; immutable and checked when made. The string below each field says what it means."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    op_name: ClassVar[str]


class NodeOp(Op):
    """A node's transform ``y = op(x)``.

    Class attributes:
        takes_bundle: Reads the named outputs of a backbone rather than one tensor.
        aggregate: The ``aggregate`` of a node that does not say one.
        parts: Names of the submodules that ``share`` may put into a group.
        takes_ids: Reads ids of tokens, from one node over a plain edge.
    """

    takes_bundle: ClassVar[bool] = False
    takes_ids: ClassVar[bool] = False
    aggregate: ClassVar[str] = "sum"
    parts: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def output(self, x: Any) -> Shape | Bundle:
        """Shape of the output for an aggregated input of shape ``x``.

        Raises:
            ShapeError: Where the op cannot take ``x``.
        """

    @abstractmethod
    def cost(self, x: Any, image: Size) -> Cost:
        """Cost for an aggregated input of shape ``x`` and a graph input of ``image`` pixels."""

    def sized(self, x: Any, image: Size) -> NodeOp:
        """The op with what it takes from the size of the image filled in; itself where that is nothing.

        Args:
            x: Shape of the aggregated input.
            image: Height and width of the graph's image.

        Raises:
            ShapeError: It was made for an image of another size.
        """
        return self

    @property
    def sight(self) -> Sight:
        """Which tokens of a sequence a token of the output depends on."""
        return "itself"

    @property
    def adds_class_token(self) -> bool:
        """Whether it puts a token in front that stands for the whole sequence."""
        return False

    @property
    def reads_class_token(self) -> bool:
        """Whether it needs such a token in its input."""
        return False

    def part_cost(self, part: str, x: Shape, image: Size) -> Cost:
        """Cost of one of ``parts``; contained in :meth:`cost`. Zero where this ``x`` needs no such part."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """Whether the output is known to be nowhere below 0, given whether the aggregated input is."""
        return False


def width_name(op: type[NodeOp]) -> str | None:
    """The op's own name among :data:`WIDTHS`; None for an op that has no such option."""
    return next((name for name in WIDTHS if name in op.model_fields), None)


class EdgeOp(Op):
    """What an edge does to its source's output before it is weighted and aggregated.

    Class attributes:
        has_parameters: Whether it has a module of its own.
        positive_linear: Whether it is a linear map with constant coefficients, none of them negative.
        resizes: Whether it brings maps of any size to the size of the target.
    """

    has_parameters: ClassVar[bool] = False
    positive_linear: ClassVar[bool] = False
    resizes: ClassVar[bool] = False

    @abstractmethod
    def output(self, source: Shape, target: Shape) -> Shape:
        """Shape of what arrives; the graph is valid where that equals ``target``.

        Raises:
            ShapeError: Where the op cannot carry ``source`` to ``target``, with the mend.
        """

    def cost(self, source: Shape, target: Shape, image: Size) -> Cost:
        """Cost of one use for a graph input of ``image`` pixels."""
        return Cost()


NODE_OPS: dict[str, type[NodeOp]] = {}
EDGE_OPS: dict[str, type[EdgeOp]] = {}

_NodeOpT = TypeVar("_NodeOpT", bound=type[NodeOp])
_EdgeOpT = TypeVar("_EdgeOpT", bound=type[EdgeOp])


def register_node_op(name: str) -> Callable[[_NodeOpT], _NodeOpT]:
    """Register a node op under ``name``, the word a graph file uses."""

    def register(op: _NodeOpT) -> _NodeOpT:
        _claim(name, NODE_OPS, "node op")
        op.op_name = name
        NODE_OPS[name] = op
        return op

    return register


def register_edge_op(name: str) -> Callable[[_EdgeOpT], _EdgeOpT]:
    """Register an edge op under ``name``, the word a graph file uses."""

    def register(op: _EdgeOpT) -> _EdgeOpT:
        _claim(name, EDGE_OPS, "edge op")
        op.op_name = name
        EDGE_OPS[name] = op
        return op

    return register


def _claim(name: str, registry: Mapping[str, Any], kind: str) -> None:
    if name in registry:
        raise ValueError(f"{kind} '{name}' is already registered by {registry[name].__module__}")


@lru_cache(maxsize=65536)
def node_op(name: str, params: FrozenMap) -> NodeOp:
    """The node op ``name`` with ``params``.

    Raises:
        OptionError: Unknown name or parameter, or an invalid value.
    """
    made: NodeOp = _make(name, params, NODE_OPS, "op")
    return made


@lru_cache(maxsize=65536)
def edge_op(name: str, params: FrozenMap) -> EdgeOp:
    """The edge op ``name`` with ``params``; raises like :func:`node_op`."""
    made: EdgeOp = _make(name, params, EDGE_OPS, "edge op")
    return made


def _make(name: str, params: FrozenMap, registry: Mapping[str, type[Any]], kind: str) -> Any:
    if name not in registry:
        raise OptionError(f"unknown {kind} '{name}'{suggest(name, registry)}")
    return validate(registry[name], params.thaw(), f"{kind} '{name}'")


def need_map(x: Shape, what: str) -> None:
    """Require height and width."""
    if not x.is_map:
        raise ShapeError(f"{what} needs a feature map, but its input is {x}")


def need_tokens(x: Shape, what: str) -> None:
    """Require a sequence of vectors."""
    if not x.is_tokens or x.is_ids:
        raise ShapeError(f"{what} needs tokens, but its input is {x}{_to_tokens(x)}")


def _to_tokens(x: Shape) -> str:
    if x.is_ids:
        return "; put a node 'embedding' before it"
    return "; put a node 'patch_embedding' before it" if x.is_map else ""


def need_vector_or_map(x: Shape, what: str) -> None:
    """Require anything but a sequence."""
    if x.is_tokens:
        raise ShapeError(
            f"{what} needs a feature map or a vector, but its input is {x}; put a node 'token_pool' before it, or use"
            " 'token_head'"
        )
