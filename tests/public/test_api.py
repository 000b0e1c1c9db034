"""The public names are what they claim to be."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import topolearn

ROOMS = ("data", "errors", "learners", "loggers", "prediction", "recipes", "runs", "studies", "tasks", "training")
STUB = Path(topolearn.__file__).with_suffix(".pyi")


def public() -> dict[str, str]:
    """Public function or class -> the package that it comes from, as the stub has it."""
    nodes = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
    origins = {alias.name: f"topolearn.{node.module}" for node in nodes for alias in node.names}
    return {name: origin for name, origin in origins.items() if not name.startswith("__")}


def test_all_is_what_the_stub_says() -> None:
    assert sorted(topolearn.__all__) == sorted([*ROOMS, "__version__", *public()])


@pytest.mark.parametrize("name", topolearn.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(topolearn, name) is not None
    assert name in dir(topolearn)


@pytest.mark.parametrize("name", sorted(public()))
def test_a_public_name_has_a_docstring_and_comes_from_where_it_says(name: str) -> None:
    value = getattr(topolearn, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith(public()[name])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No topolearn attribute train"):
        topolearn.train  # noqa: B018


def test_the_version_is_a_version() -> None:
    assert [part.isdigit() for part in topolearn.__version__.split(".")] == [True, True, True]


def test_errors_are_topolearn_errors() -> None:
    from topolearn import errors

    kinds = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, topolearn.TopolearnError) for kind in kinds)
    error = errors.FormatError("what\n is wrong", errors.Location("f.yaml", 3, 7))
    assert str(error) == "f.yaml:3:7: what is wrong"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("fanin", ["fan_in", "seed"], "; did you mean 'fan_in'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        (
            "zzz",
            [f"k{i:02}" for i in range(20)],
            "; known: k00, k01, k02, k03, k04, k05, k06, k07, k08, k09, k10, k11, …",
        ),
    ],
)
def test_suggestions(word: str, known: list[str], hint: str) -> None:
    from topolearn.errors import suggest

    assert suggest(word, known) == hint
