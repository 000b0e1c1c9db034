"""The public names are what they claim to be."""

from __future__ import annotations

import inspect

import pytest

import topolearn


@pytest.mark.parametrize("name", topolearn.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(topolearn, name) is not None
    assert name in dir(topolearn)


@pytest.mark.parametrize("name", sorted(topolearn._PUBLIC))
def test_a_public_name_has_a_docstring_and_comes_from_where_it_says(name: str) -> None:
    value = getattr(topolearn, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith(topolearn._PUBLIC[name])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'topolearn' has no attribute 'train'"):
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
