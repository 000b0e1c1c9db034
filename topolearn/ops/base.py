"""Base classes and registry of ops. An op has parameters, a shape rule, a cost rule and a name.

A *node op* transforms what its node aggregates. An *edge op* turns a source's output into the input that the
target node declares. The torch modules that compute them are in ``topolearn.compiler.modules``; nothing here
imports torch.
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
    """Raised if an op cannot take a shape: says what is wrong and what to do; the caller adds the place."""


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd, so that the output has ceil(size / stride) positions")
    return value


MAX_INT = 2**31 - 1
"""Largest value of an integer parameter."""

WIDTHS = ("channels", "out_channels", "out_features", "classes")
"""Names of the option that sets the size of an op's output. Each op has at most one; a file may use any of them."""

PositiveInt = Annotated[int, Field(gt=0, le=MAX_INT)]
OddInt = Annotated[int, Field(gt=0, le=MAX_INT), AfterValidator(_odd)]


Sight = Literal["itself", "earlier", "all"]
"""Which tokens a token depends on: only itself, earlier ones too, or all."""


class Op(BaseModel):
    """Parameters of an op: immutable, and checked when created. The string below each field says what it means."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    op_name: ClassVar[str]


class NodeOp(Op):
    """A node's transform ``y = op(x)``.

    Class attributes:
        takes_bundle: Whether it reads the named outputs of a backbone instead of one tensor.
        aggregate: Default ``aggregate`` of its nodes.
        parts: Names of the submodules that nodes can ``share``.
        takes_ids: Whether it reads token ids, from one node over a plain edge.
        is_branch: Whether it computes the branch of a residual connection, and leaves the connection to edges.
    """

    takes_bundle: ClassVar[bool] = False
    takes_ids: ClassVar[bool] = False
    is_branch: ClassVar[bool] = False
    aggregate: ClassVar[str] = "sum"
    parts: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def output(self, x: Any) -> Shape | Bundle:
        """Return the shape of the output for an aggregated input of shape ``x``.

        Raises:
            ShapeError: The op cannot take ``x``.
        """

    @abstractmethod
    def cost(self, x: Any, image: Size) -> Cost:
        """Return the cost for an aggregated input of shape ``x`` and a graph input of ``image`` pixels."""

    def sized(self, x: Any, image: Size) -> NodeOp:
        """Return the op with the options that depend on the image size filled in; most ops return themselves.

        Args:
            x: Shape of the aggregated input.
            image: Height and width of the graph's image.

        Raises:
            ShapeError: The op was made for an image of another size.
        """
        return self

    @property
    def sight(self) -> Sight:
        """Which tokens of the input each token of the output depends on."""
        return "itself"

    @property
    def adds_class_token(self) -> bool:
        """Whether it puts a class token, which stands for the whole sequence, in front."""
        return False

    @property
    def reads_class_token(self) -> bool:
        """Whether its input must begin with a class token."""
        return False

    def part_cost(self, part: str, x: Shape, image: Size) -> Cost:
        """Return the cost of one of ``parts``, which :meth:`cost` includes; zero if this ``x`` needs no such part."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """Whether the output is known to have no negative values, given whether the aggregated input has none."""
        return False


def width_name(op: type[NodeOp]) -> str | None:
    """Return which of :data:`WIDTHS` the op uses; None if it has no such option."""
    return next((name for name in WIDTHS if name in op.model_fields), None)


class EdgeOp(Op):
    """What an edge does to its source's output before it is weighted and aggregated.

    Class attributes:
        has_parameters: Whether it has a module with parameters.
        positive_linear: Whether it is a linear map with constant coefficients that are not negative.
        resizes: Whether it resizes maps of any size to the size of the target.
    """

    has_parameters: ClassVar[bool] = False
    positive_linear: ClassVar[bool] = False
    resizes: ClassVar[bool] = False

    @abstractmethod
    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the shape that arrives at the target; the edge is valid if that equals ``target``.

        Raises:
            ShapeError: The op cannot turn ``source`` into ``target``; the message says what to do.
        """

    def cost(self, source: Shape, target: Shape, image: Size) -> Cost:
        """Return the cost of one use for a graph input of ``image`` pixels."""
        return Cost()


NODE_OPS: dict[str, type[NodeOp]] = {}
EDGE_OPS: dict[str, type[EdgeOp]] = {}

_NodeOpT = TypeVar("_NodeOpT", bound=type[NodeOp])
_EdgeOpT = TypeVar("_EdgeOpT", bound=type[EdgeOp])


def register_node_op(name: str) -> Callable[[_NodeOpT], _NodeOpT]:
    """Register a node op under ``name``, which graph files use."""

    def register(op: _NodeOpT) -> _NodeOpT:
        _claim(name, NODE_OPS, "node op")
        op.op_name = name
        NODE_OPS[name] = op
        return op

    return register


def register_edge_op(name: str) -> Callable[[_EdgeOpT], _EdgeOpT]:
    """Register an edge op under ``name``, which graph files use."""

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
    """Return the node op ``name`` with ``params``.

    Raises:
        OptionError: Unknown name or parameter, or an invalid value.
    """
    made: NodeOp = _make(name, params, NODE_OPS, "op")
    return made


@lru_cache(maxsize=65536)
def edge_op(name: str, params: FrozenMap) -> EdgeOp:
    """Return the edge op ``name`` with ``params``; raises like :func:`node_op`."""
    made: EdgeOp = _make(name, params, EDGE_OPS, "edge op")
    return made


def _make(name: str, params: FrozenMap, registry: Mapping[str, type[Any]], kind: str) -> Any:
    if name not in registry:
        raise OptionError(f"unknown {kind} '{name}'{suggest(name, registry)}")
    return validate(registry[name], params.thaw(), f"{kind} '{name}'")


def need_map(x: Shape, what: str) -> None:
    """Raise a ShapeError if ``x`` has no height and width."""
    if not x.is_map:
        raise ShapeError(f"{what} needs a feature map, but its input is {x}")


def need_tokens(x: Shape, what: str) -> None:
    """Raise a ShapeError if ``x`` is not a sequence of vectors."""
    if not x.is_tokens or x.is_ids:
        raise ShapeError(f"{what} needs tokens, but its input is {x}{_to_tokens(x)}")


def _to_tokens(x: Shape) -> str:
    if x.is_ids:
        return "; put a node 'embedding' before it"
    return "; put a node 'patch_embedding' before it" if x.is_map else ""


def need_vector_or_map(x: Shape, what: str) -> None:
    """Raise a ShapeError if ``x`` is a sequence."""
    if x.dims is not None:
        raise ShapeError(f"{what} needs a feature map or a vector, but its input is {x}")
    if x.is_tokens:
        raise ShapeError(
            f"{what} needs a feature map or a vector, but its input is {x}; put a node 'token_pool' before it, or use"
            " 'token_head'"
        )
