"""``topolearn list``: the known graphs, learners, ops, data sets and training options."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topolearn.errors import OptionError, suggest
from topolearn.plugins import load_plugins

if TYPE_CHECKING:
    from pydantic import BaseModel

_WIDTH = 100


class Kind(StrEnum):
    """The kinds of things that ``list`` lists."""

    GRAPHS = "graphs"
    LEARNERS = "learners"
    OPS = "ops"
    DATA = "data"
    TRAINING = "training"


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="What to list; without it, the number of each kind.")] = None,
    name: Annotated[
        str | None, typer.Argument(help="Name of a learner, op or training option, to show its options.")
    ] = None,
) -> None:
    """List the shipped graphs, the learners, ops and data sets, and the training options."""
    load_plugins()
    if kind is not None and name is not None:
        _describe(kind, name)
        return
    if kind is None:
        for each in Kind:
            print(f"{each.value:<8}  {len(list(_LISTS[each]())):>3}  topolearn list {each.value}")
        return
    rows = list(_LISTS[kind]())
    width = max((len(word) for word, _ in rows), default=0)
    for word, text in rows:
        opening = f"{word:<{width}}  "
        indent = " " * len(opening)
        print(
            textwrap.fill(
                opening + text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        )


def _describe(kind: Kind, name: str) -> None:
    """Print what ``name`` is, and its options with their defaults."""
    if kind is Kind.GRAPHS:
        raise OptionError(f"a graph has no options; use 'topolearn show {name}'")
    if kind is Kind.DATA:
        raise OptionError("data sets have no options of their own; see 'topolearn list training' for reading them")
    if kind is Kind.TRAINING:
        known = _training().model_fields
        if name not in known:
            raise OptionError(f"training has no setting '{name}'{suggest(name, known)}")
        _print_fields(_training(), [name])
        return
    for summary, model in _found(kind, name):
        print(summary)
        _print_fields(model, list(model.model_fields))


def _found(kind: Kind, name: str) -> list[tuple[str, type[BaseModel]]]:
    """Return summary and options of the learner or ops called ``name``; a node op and an edge op may share a name."""
    if kind is Kind.LEARNERS:
        from topolearn.learners import learner_class

        learner = learner_class(name)
        return [(_summary(learner), learner.options_type)]
    from topolearn.ops import EDGE_OPS, NODE_OPS

    found: list[tuple[str, type[BaseModel]]] = []
    if name in NODE_OPS:
        found.append((_summary(NODE_OPS[name]), NODE_OPS[name]))
    if name in EDGE_OPS:
        found.append((f"(edge) {_summary(EDGE_OPS[name])}", EDGE_OPS[name]))
    if not found:
        raise OptionError(f"unknown op '{name}'{suggest(name, [*NODE_OPS, *EDGE_OPS])}")
    return found


def _print_fields(model: type[BaseModel], names: list[str]) -> None:
    from topolearn.options import fields

    for field in fields(model):
        if field.name in names:
            given = "" if field.default is None else f" = {field.default}"
            print(f"\n  {field.name}{given}{_for_text(field.name) if model is _training() else ''}")
            print(textwrap.fill(field.text, _WIDTH, initial_indent="      ", subsequent_indent="      "))


# -- what `list` prints ------------------------------------------------------------------------


def _graphs() -> Iterator[tuple[str, str]]:
    from topolearn.format import library

    for name in library.names("graphs"):
        opening = []
        for line in (library.folder("graphs") / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            opening.append(line.lstrip("# "))
        yield name, _sentence(" ".join(opening))


def _ops() -> Iterator[tuple[str, str]]:
    from topolearn.ops import EDGE_OPS, NODE_OPS

    for name, op in sorted(NODE_OPS.items()):
        yield name, _summary(op)
    for name, edge_op in sorted(EDGE_OPS.items()):
        yield name, f"(edge) {_summary(edge_op)}"


def _learners() -> Iterator[tuple[str, str]]:
    from topolearn.learners import LEARNERS

    for name, learner in sorted(LEARNERS.items()):
        yield name, _summary(learner)


def _data() -> Iterator[tuple[str, str]]:
    from topolearn.data import DATASETS

    for name, loader in sorted(DATASETS.items()):
        yield name, _summary(loader)


def _settings() -> Iterator[tuple[str, str]]:
    from topolearn.options import fields

    for field in fields(_training()):
        yield f"{field.name} = {field.default}", _sentence(field.text) + _for_text(field.name)


def _for_text(name: str) -> str:
    """Return the default of a training option for text, in brackets; empty if it is the same for all data."""
    from topolearn.options import in_file
    from topolearn.recipes.recipe import TEXT_DEFAULTS

    usual = TEXT_DEFAULTS.training.get(name)
    return "" if usual is None else f" (for text: {in_file(usual)})"


def _training() -> type[BaseModel]:
    from topolearn.recipes.train_options import TrainOptions

    return TrainOptions


_LISTS: dict[Kind, Callable[[], Iterator[tuple[str, str]]]] = {
    Kind.GRAPHS: _graphs,
    Kind.LEARNERS: _learners,
    Kind.OPS: _ops,
    Kind.DATA: _data,
    Kind.TRAINING: _settings,
}


def _summary(thing: Any) -> str:
    """Return the first sentence of the docstring."""
    return _sentence((thing.__doc__ or "").strip().partition("\n")[0])


def _sentence(text: str) -> str:
    """Return the first sentence, without its full stop."""
    return re.split(r"(?<!\bal)\. (?=[A-Z])", text, maxsplit=1)[0].rstrip(".").replace("``", "'")
