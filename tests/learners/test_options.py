"""Options, names and aliases; what cannot work says so in one line."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

import topolearn
from tests.learner_settings import SETTINGS, Setting
from tests.learners.samples import batch, complete, graph, network, step, vectors
from topolearn import learners, optimizers
from topolearn.errors import OptionError
from topolearn.graph import Graph, Topology
from topolearn.learners import ALIASES, LEARNERS, Candidates, EdgeLearner, Options, Phase, make_learner
from topolearn.learners.base import kept
from topolearn.options import InvalidOption, fields
from topolearn.recipes import load_recipe


def no_choice() -> Graph:
    """A graph without learnable edges."""
    searched = graph("single")
    return topolearn.prune(network(searched, make_learner("fixed", searched, {"rule": "full"}))).graph


def fails(name: str, options: dict[str, Any], text: str, searched: Graph | None = None) -> None:
    with pytest.raises(OptionError) as caught:
        make_learner(name, searched or vectors(), options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_learner_has_a_setting_here() -> None:
    ours = {name for name, cls in LEARNERS.items() if cls.__module__.startswith("topolearn.")}
    assert {setting.learner for setting in SETTINGS.values()} == ours
    assert ours == {
        "maskconnect",
        "continuous",
        "sparsemask",
        "fixed",
        "ablation",
        "taylor",
        "similarity",
        "random_blocks",
    }


def test_names_and_aliases() -> None:
    assert ALIASES["toponet"] == "continuous"
    assert learners.learner_class("toponet") is learners.Continuous
    assert isinstance(make_learner("toponet", vectors()), learners.Continuous)
    for name, cls in LEARNERS.items():
        assert learners.learner_class(name) is cls
        assert cls.learner_name == name
        assert (cls.__doc__ or "").strip()
    fails("masconnect", {}, "unknown learner 'masconnect'; did you mean 'maskconnect'?")
    fails("topnet", {}, "did you mean 'toponet'?")


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_made_by_name_or_by_class(setting: Setting) -> None:
    by_name = setting.make(vectors())
    by_class = LEARNERS[setting.learner](vectors(), **setting.options)
    assert by_name.options == by_class.options
    assert torch.equal(by_name.edge_weights(), by_class.edge_weights())
    assert type(by_name).options_type(**by_name.options.model_dump()) == by_name.options


@pytest.mark.parametrize("name", LEARNERS)
def test_constructor_and_options_agree(name: str) -> None:
    made = make_learner(name, vectors())
    assert made.options == made.options_type()
    made = LEARNERS[name](vectors())  # type: ignore[call-arg]
    assert made.options == made.options_type()


@pytest.mark.parametrize("name", LEARNERS)
def test_help_and_signature_show_every_option(name: str) -> None:
    learner = LEARNERS[name]
    graph, *shown = inspect.signature(learner).parameters.values()
    assert (graph.name, graph.default) == ("graph", graph.empty)
    assert {each.name: each.default for each in shown} == dict(learner.options_type())
    assert {each.kind for each in shown} == {graph.KEYWORD_ONLY}
    help_text = " ".join(pydoc.plain(pydoc.render_doc(learner)).replace("\n |", "\n").split())
    assert "Annotated" not in help_text.partition("Method resolution order")[0]
    for option, described in zip(shown, fields(learner.options_type), strict=True):
        assert described.text
        meaning = learner.options_type.model_fields[option.name].description or ""
        assert f"{option.name} (default {option.default!r}): {' '.join(meaning.split())}" in help_text


@pytest.mark.parametrize("name", LEARNERS)
def test_options_are_checked_by_the_class_too(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"unknown parameter 'sed' of learner '{name}'; "):
        LEARNERS[name](vectors(), sed=3)
    with pytest.raises(TypeError):
        LEARNERS[name](vectors(), 3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("maskconnect", {"fanin": 3}, "unknown option 'fanin' of learner 'maskconnect'; did you mean 'fan_in'?"),
        ("maskconnect", {"fan_in": 0}, "'fan_in' of learner 'maskconnect' is 0"),
        ("maskconnect", {"fan_in": -1}, "'fan_in' of learner 'maskconnect' is -1"),
        ("maskconnect", {"fan_in": 2.0}, "'fan_in' of learner 'maskconnect' is 2.0"),
        ("maskconnect", {"fan_in": 7}, "fan_in 7 is larger than every candidate set of graph 'vectors'; use at most 6"),
        ("maskconnect", {"update": "plain"}, "'update' of learner 'maskconnect' is 'plain'"),
        ("maskconnect", {"step": -0.1}, "'step' of learner 'maskconnect' is -0.1"),
        ("maskconnect", {"lr_scale": 3.0}, "'lr_scale' belongs to update 'literal'"),
        ("maskconnect", {"update": "literal", "step": 0.1}, "'step' belongs to update 'balanced'"),
        ("maskconnect", {"seed": "1"}, "'seed' of learner 'maskconnect' is '1'"),
        (
            "continuous",
            {"fan_in": 2},
            "unknown option 'fan_in' of learner 'continuous'; it is an option of fixed, maskconnect",
        ),
        ("continuous", {"penalty": "l2"}, "'penalty' of learner 'continuous' is 'l2'"),
        ("continuous", {"penalty_strength": -1.0}, "'penalty_strength"),
        ("continuous", {"penalty_strength": "much"}, "'penalty_strength"),
        ("continuous", {"threshold": 1.5}, "'threshold' of learner 'continuous' is 1.5"),
        ("continuous", {"keep": 0}, "'keep' of learner 'continuous' is 0"),
        ("continuous", {"keep": 2.0}, "'keep' of learner 'continuous' is 2.0"),
        ("continuous", {"keep": 2, "budget": {"macs": 0.5}}, "give 'keep', a number of edges per node, or 'budget'"),
        ("continuous", {"proximal": 1}, "'proximal' of learner 'continuous' is 1"),
        ("toponet", {"tau": 0.1}, "unknown option 'tau' of learner 'toponet'"),
        ("sparsemask", {"treshold": 0.1}, "did you mean 'threshold'?"),
        ("sparsemask", {"threshold": 1.0}, "'threshold' of learner 'sparsemask' is 1.0"),
        ("sparsemask", {"noise": -0.1}, "'noise' of learner 'sparsemask' is -0.1"),
        ("fixed", {"rule": "previous"}, "'rule' of learner 'fixed' is 'previous'"),
        ("fixed", {"fan_in": 0}, "'fan_in' of learner 'fixed' is 0"),
        ("fixed", {"rule": "random", "fan_in": 7}, "fan_in 7 is larger than every candidate set"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], text: str) -> None:
    fails(name, options, text)


@pytest.mark.parametrize("name", ["maskconnect", "continuous", "sparsemask"])
def test_a_graph_without_learnable_edges(name: str) -> None:
    fails(name, {}, "graph 'single' has no learnable edges, so learner", no_choice())
    fails(name, {}, "train it with learner 'fixed'", no_choice())


@pytest.mark.parametrize("rule", ["prev", "full", "random", "given"])
def test_fixed_takes_a_graph_without_learnable_edges_as_it_is(rule: str) -> None:
    searched = no_choice()
    learner = make_learner("fixed", searched, {"rule": rule})
    assert learner.edge_weights().tolist() == [edge.weight for edge in searched.edges]
    assert all(learner.topology().keep)
    net = network(searched, learner)
    assert step(net, optimizers(net, lr=0.1)) > 0


def test_fan_in_is_half_of_the_largest_candidate_set_rounded_up() -> None:
    for sources, expected in ((1, 1), (2, 1), (5, 3), (6, 3)):
        for name, options in (("maskconnect", {}), ("fixed", {"rule": "random"})):
            assert make_learner(name, vectors(sources), options).fan_in == expected
    assert make_learner("maskconnect", complete(7)).fan_in == 4
    assert make_learner("maskconnect", graph("resnet38-cifar100")).fan_in == 9
    assert make_learner("continuous", vectors()).fan_in is None
    assert make_learner("sparsemask", vectors()).fan_in is None
    assert make_learner("fixed", vectors(), {"rule": "prev"}).fan_in == 1
    assert make_learner("fixed", vectors(), {"rule": "full"}).fan_in == 6


def test_residual_scale_follows_the_fan_in() -> None:
    def scale(name: str, **options: Any) -> float:
        searched = graph("branches")
        net = network(searched, make_learner(name, searched, options))
        return float(net.graph.nodes["b1"].params["residual_scale"])

    assert scale("maskconnect", fan_in=1) == 1.0
    assert scale("maskconnect") == 2.0
    assert scale("fixed", rule="random", fan_in=2) == 2.0
    assert scale("fixed", rule="prev") == 1.0
    assert scale("fixed", rule="full") == scale("continuous") == scale("sparsemask") == 3.0


class LouderOptions(Options):
    """Options of :class:`Loudest`."""

    keep: Annotated[int, Field(ge=1)] = 1


@pytest.fixture
def loudest() -> Iterator[type[EdgeLearner]]:
    """A learner by somebody else, registered for one test."""

    @learners.register_learner("loudest", "loud")
    class Loudest(EdgeLearner):
        """Edges are scaled by a learned loudness; in the end the loudest of each node stay."""

        options_type = LouderOptions

        def __init__(self, graph: Graph, keep: int = 1) -> None:
            super().__init__()
            self.options = LouderOptions(keep=keep)
            self.graph = graph
            self.fan_in = keep
            self.candidates = Candidates(graph)
            self.loudness = nn.Parameter(torch.zeros(len(self.candidates)))

        def edge_weights(self) -> Tensor:
            return self.candidates.spread(self.loudness.sigmoid())

        def param_groups(self, lr: float) -> list[dict[str, Any]]:
            return [{"params": [self.loudness], "lr": lr}]

        def topology(self) -> Topology:
            best = self.candidates.table(self.loudness.detach(), -torch.inf).argsort(1, descending=True)
            picked = torch.zeros(best.shape, dtype=torch.bool).scatter(1, best[:, : self.fan_in], True)
            chosen = (picked & self.candidates.valid).flatten()[self.candidates.cell]
            weights = self.edge_weights().detach().tolist()
            return Topology.of(self.graph, kept(self.graph, chosen.tolist()), weights)

        def phases(self) -> tuple[Phase, ...]:
            return (Phase("search", 1.0, search=True),)

    yield Loudest
    del LEARNERS["loudest"], ALIASES["loud"]


def test_a_learner_by_somebody_else(loudest: type[EdgeLearner]) -> None:
    assert learners.learner_class("loud") is loudest
    learner = make_learner("loudest", graph("mixed"), {"keep": 2})
    net = topolearn.compile(graph("mixed"), learner)
    assert float(learner.penalty()) == 0.0
    assert learner.active() is None
    assert learner.summary() == {}
    chosen = optimizers(net, lr=0.5)
    assert len(chosen) == 2
    for number in range(3):
        step(net, chosen, number)
    assert bool((learner.get_parameter("loudness") != 0).any())
    small = topolearn.prune(net)
    assert len(small.graph.edges) < len(net.graph.edges)
    outputs = small.eval()(**batch(small.graph))
    masked = topolearn.compile(net)
    masked.set_edge_weights(net.topology().edge_weights())
    for key, value in masked.eval()(**batch(small.graph)).items():
        torch.testing.assert_close(outputs[key], value)
    fails("loudest", {"kept": 2}, "unknown option 'kept' of learner 'loudest'; did you mean 'keep'?")


def test_a_name_is_taken_once(loudest: type[EdgeLearner]) -> None:
    with pytest.raises(ValueError, match="'loudest' is already registered"):
        learners.register_learner("loudest")(loudest)


def test_the_protocol_cannot_be_half_implemented() -> None:
    class Half(EdgeLearner):
        def edge_weights(self) -> Tensor:
            return torch.ones(1)

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


class DimOptions(Options):
    """Options of :class:`Dim`."""

    level: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Weight of every candidate, above 0."""


@pytest.fixture
def dim() -> Iterator[type[EdgeLearner]]:
    """A learner that says nothing about its options but what they are."""

    @learners.register_learner("dim")
    class Dim(EdgeLearner):
        """Every candidate at the same weight."""

        options_type = DimOptions
        options: DimOptions

        def edge_weights(self) -> Tensor:
            return self.candidates.spread(torch.full((len(self.candidates),), self.options.level))

        def param_groups(self, lr: float) -> list[dict[str, Any]]:
            return []

        def topology(self) -> Topology:
            return Topology.of(self.graph, [True] * len(self.graph.edges), self.edge_weights().tolist())

        def phases(self) -> tuple[Phase, ...]:
            return (Phase("train", 1.0),)

    yield Dim
    del LEARNERS["dim"]


def test_an_option_is_declared_once(dim: type[EdgeLearner], run: Callable[..., tuple[int, str, str]]) -> None:
    for made in (dim(vectors(), level=0.25), make_learner("dim", vectors(), {"level": 0.25})):
        assert made.edge_weights().tolist() == [0.25] * 6
        assert (made.graph, made.fan_in, len(made.candidates)) == (vectors(), None, 6)
    assert dim(vectors()).options == DimOptions(level=0.5)
    with pytest.raises(InvalidOption, match=r"'level' of learner 'dim' is 2\.0, but it should be at most 1"):
        dim(vectors(), level=2.0)
    fails("dim", {"level": 0.0}, "'level' of learner 'dim' is 0.0, but it should be greater than 0")
    fails("dim", {"lvel": 0.5}, "unknown option 'lvel' of learner 'dim'; did you mean 'level'?")

    assert str(inspect.signature(dim)).endswith("*, level: float = 0.5)")
    assert (dim.__doc__ or "").endswith("Options:\n    level (default 0.5): Weight of every candidate, above 0.\n")
    _, out, _ = run("list", "learners", "dim")
    assert out == "Every candidate at the same weight\n\n  level = 0.5\n      Weight of every candidate, above 0.\n"
    learner = load_recipe("digits", {"learner": "dim", "level": "0.125"}).learner
    assert (learner.name, learner.options) == ("dim", {"level": 0.125})
    status, _, err = run("fit", "digits", "--learner", "dim", "--set", "level=2")
    assert (status, "'level' of learner 'dim' is 2" in err) == (2, True)


def test_a_learner_that_is_not_registered_has_the_name_of_its_class(dim: type[EdgeLearner]) -> None:
    class Unnamed(EdgeLearner):
        options_type = DimOptions
        edge_weights, param_groups = dim.edge_weights, dim.param_groups  # type: ignore[assignment]
        topology, phases = dim.topology, dim.phases  # type: ignore[assignment]

    with pytest.raises(InvalidOption, match="'level' of learner 'Unnamed' is 'x'"):
        Unnamed(vectors(), level="x")
    assert Unnamed.__doc__ is None
    assert str(inspect.signature(Unnamed)).endswith("level: float = 0.5)")


def test_a_learner_with_a_constructor_of_its_own_keeps_its_signature(loudest: type[EdgeLearner]) -> None:
    assert list(inspect.signature(loudest).parameters) == ["graph", "keep"]


def test_an_old_method_name_is_refused() -> None:
    """Registered or not: nothing would call it."""
    message = r"learner 'Old' of .* has a method 'heed_lr', which is now called 'on_learning_rate'; rename it"
    with pytest.raises(ValueError, match=message):

        class Old(EdgeLearner):
            def heed_lr(self, lr: float) -> None:
                """What it was called."""


def test_a_signature_has_what_the_constructor_names_and_the_options(dim: type[EdgeLearner]) -> None:
    class Mine(dim):  # type: ignore[misc,valid-type]
        def __init__(self, graph: Graph, mine: int = 1, **options: Any) -> None:
            super().__init__(graph, **options)

    class Closed(dim):  # type: ignore[misc,valid-type]
        def __init__(self, graph: Graph, level: float = 0.25) -> None:
            super().__init__(graph, level=level)

    assert list(inspect.signature(Mine).parameters) == ["graph", "mine", "level"]
    assert inspect.signature(Closed).parameters["level"].default == 0.25
