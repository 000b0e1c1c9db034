"""Options that do not fit: one line that names the place as the user wrote it, and what it would take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from topolearn.learners import LEARNERS
from topolearn.learners.continuous import ContinuousOptions
from topolearn.learners.pricing import Budget
from topolearn.ops import EDGE_OPS, NODE_OPS
from topolearn.options import InvalidOption, docstring_section, fields, parameters, validate
from topolearn.recipes import Recipe, RecipeFile
from topolearn.recipes.train_options import PhaseOptions, TrainOptions

CASES: list[tuple[type[BaseModel], Mapping[str, Any], tuple[str, ...], str]] = [
    # One of a union: what each member would take, without pydantic's names for them.
    (
        ContinuousOptions,
        {"penalty_strength": "x"},
        ("penalty_strength",),
        "'penalty_strength' of it is 'x', but it should be a number, or 'auto'",
    ),
    (
        ContinuousOptions,
        {"penalty_strength": -1},
        ("penalty_strength",),
        "'penalty_strength' of it is -1, but it should be at least 0, or 'auto'",
    ),
    (
        RecipeFile,
        {"graph": "x", "learner": 3},
        ("learner",),
        "'learner' of it is 3, but it should be text, or a mapping",
    ),
    # The member that was meant.
    (RecipeFile, {"graph": "x", "learner": {"fan_in": 3}}, ("learner", "name"), "it needs 'learner.name'"),
    # Options within options.
    (
        ContinuousOptions,
        {"budget": 0.5},
        ("budget",),
        "'budget' of it is 0.5, but it should name the cost that it limits, as {macs: 0.5}",
    ),
    (
        ContinuousOptions,
        {"budget": {}},
        ("budget",),
        "needs one of 'macs', 'params' and 'milliseconds', as {macs: 0.5}",
    ),
    (
        ContinuousOptions,
        {"budget": {"mac": 0.5}},
        ("budget", "mac"),
        "unknown parameter 'budget.mac' of it; did you mean 'macs'?",
    ),
    (
        ContinuousOptions,
        {"budget": {"macs": 2.0}},
        ("budget", "macs"),
        "'budget.macs' of it is 2.0, but it should be at most 1",
    ),
    (TrainOptions, {"node_lr": 3}, ("node_lr",), "'node_lr' of it is 3, but it should be a mapping"),
    (
        TrainOptions,
        {"node_lr": {"a": -1}},
        ("node_lr", "a"),
        "'node_lr.a' of it is -1, but it should be greater than 0",
    ),
    (
        TrainOptions,
        {"phases": {"search": {"lr": -1}}},
        ("phases", "search", "lr"),
        "'phases.search.lr' of it is -1, but it should be greater than 0",
    ),
    (TrainOptions, {"milestones": [0.5, 2]}, ("milestones", "1"), "'milestones.1' of it is 2, but it should be less"),
    # The spelling comes before what it leaves missing.
    (
        NODE_OPS["resnext.branch"],
        {"widt": 3, "out_channels": 3},
        ("widt",),
        "unknown parameter 'widt' of it; did you mean 'width'?",
    ),
    (RecipeFile, {"learner": "fixed"}, ("graph",), "it needs 'graph'"),
]


@pytest.mark.parametrize(("model", "values", "path", "text"), CASES)
def test_what_does_not_fit(model: type[BaseModel], values: Mapping[str, Any], path: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        validate(model, values, "it")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.path == path


MODELS = {
    **{name: learner.options_type for name, learner in LEARNERS.items()},
    **NODE_OPS,
    **EDGE_OPS,
    "budget": Budget,
    "training": TrainOptions,
    "phase": PhaseOptions,
    "recipe": RecipeFile,
    "request": Recipe,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_option_says_what_it_means(model: type[BaseModel]) -> None:
    described = fields(model)
    assert [each.name for each in described] == list(model.model_fields)
    for each in described:
        assert each.text.endswith("."), each.name
        assert "``" not in each.text
        assert ":class:" not in each.text


def test_defaults_are_as_a_file_has_them() -> None:
    defaults = {each.name: each.default for each in fields(TrainOptions)}
    assert [defaults[name] for name in ("momentum", "nesterov", "crop", "scale", "phases", "schedule")] == [
        "0.9",
        "false",
        "null",
        "[0.5, 2.0]",
        "{}",
        "cosine",
    ]
    assert {each.name for each in fields(NODE_OPS["conv"]) if each.default is None} == {"out_channels"}


class Parent(BaseModel):
    """Two fields."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    size: Annotated[int, Field(ge=1)] | None = None
    """How many of ``them`` there are;
    None: all.
    """
    kind: Literal["a", "b"]
    """Which kind."""


class Child(Parent):
    """Another default, and what one field means besides."""

    size: Annotated[int, Field(ge=1)] | None = 3
    kind: Literal["a", "b"] = "b"
    """Which kind, as in :class:`~tests.test_options.Parent`."""


def test_a_field_with_another_default_means_what_it_does_in_the_base() -> None:
    assert [(each.name, each.default, each.text) for each in fields(Parent)] == [
        ("size", "null", "How many of 'them' there are; null: all."),
        ("kind", None, "Which kind."),
    ]
    assert [(each.name, each.default, each.text) for each in fields(Child)] == [
        ("size", "3", "How many of 'them' there are; null: all."),
        ("kind", "b", "Which kind, as in Parent."),
    ]
    shortcut = {each.name: each for each in fields(NODE_OPS["resnet.bottleneck"])}["shortcut"]
    assert shortcut.default == "projection"
    assert shortcut.text.startswith("Shortcut if the shape changes.")


def test_fields_as_parameters_and_in_a_docstring() -> None:
    size, kind = parameters(Child)
    assert (size.name, size.default, size.annotation) == ("size", 3, int | None)
    assert str(kind) == "kind: Literal['a', 'b'] = 'b'"
    assert parameters(Parent)[1].default is kind.empty
    assert docstring_section(Parent) == (
        "Options:\n    size (default None): How many of ``them`` there are; None: all.\n    kind: Which kind."
    )
