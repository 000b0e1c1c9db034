"""Recipes, settings and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import GRAPH, graph, pair, quick_fit, run, untimed
from topolearn.errors import CheckpointError, FormatError, OptionError, TopolearnError
from topolearn.format.tree import parse
from topolearn.options import validate
from topolearn.recipes import RecipeFile, TrainOptions, load_recipe
from topolearn.recipes.recipe_file import apply_settings, is_recipe, open_recipe, read_recipe
from topolearn.runs.config import read_config, write_config
from topolearn.runs.same_run import compare_config

RECIPE = """
topolearn: 1
name: tiny-recipe
graph: tiny.yaml
graph_set: {nodes.head.dropout: 0.5}
learner: {name: maskconnect, fan_in: 1, update: literal}
epochs: 2
batch_size: 6
lr: 0.02
seed: 5
precision: bfloat16
training:
  schedule: step
  milestones: [0.5]
  phases: {search: 1, fine_tune: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(GRAPH.format(name="tiny", channels=3, classes=4, learnable="true"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def recipe(**changes: Any) -> RecipeFile:
    return RecipeFile(**{"graph": "digits", "learner": "maskconnect"} | changes)


# -- recipes ------------------------------------------------------------------------------------


def test_a_recipe_is_read(folder: Path) -> None:
    document = open_recipe(folder / "recipe.yaml")
    assert is_recipe(document)
    found = read_recipe(document)
    assert (found.learner.name, found.learner.options) == ("maskconnect", {"fan_in": 1, "update": "literal"})
    assert (found.epochs, found.batch_size, found.lr, found.seed, found.precision) == (2, 6, 0.02, 5, "bfloat16")
    assert found.training["milestones"] == (0.5,)


def test_a_graph_is_no_recipe(folder: Path) -> None:
    assert not is_recipe(open_recipe(folder / "tiny.yaml"))
    assert not is_recipe(open_recipe("digits"))


def test_the_graph_is_looked_for_beside_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_recipe(open_recipe(folder / "recipe.yaml"))
    assert found.searched.nodes["head"].params["dropout"] == 0.5
    monkeypatch.chdir(folder)
    assert read_recipe(open_recipe("recipe.yaml")).searched.name == "tiny"


def test_a_recipe_may_name_a_shipped_graph(folder: Path) -> None:
    text = RECIPE.replace("tiny.yaml", "digits").replace("dropout: 0.5", "classes: 7")
    (folder / "recipe.yaml").write_text(text)
    found = read_recipe(open_recipe(folder / "recipe.yaml")).searched
    assert found.nodes["head"].params["classes"] == 7


def test_a_recipe_runs_with_its_settings(folder: Path) -> None:
    result = quick_fit(folder / "recipe.yaml", data=pair())
    expected = {"epochs": 2, "batch_size": 6, "lr": 0.02, "seed": 5, "precision": "bfloat16", "learner": "maskconnect"}
    assert {key: result.config[key] for key in expected} == expected
    assert result.config["learner_options"].items() >= {"fan_in": 1, "update": "literal", "seed": 5}.items()
    assert result.config["training"]["phases"] == {"search": 1, "fine_tune": 1}
    assert [record["phase"] for record in result.history] == ["search", "fine_tune", "result"]
    assert result.graph.nodes["head"].params["dropout"] == 0.5


def test_arguments_win_over_a_recipe(folder: Path) -> None:
    """A recipe's options go with its learner only."""
    result = quick_fit(
        str(folder / "recipe.yaml"),
        "sparsemask",
        pair(),
        epochs=2,
        lr=0.5,
        seed=0,
        precision="float32",
        training={"phases": {"retrain": 0}},
        threshold=0.2,
    )
    expected = {"epochs": 2, "batch_size": 6, "lr": 0.5, "seed": 0, "precision": "float32", "learner": "sparsemask"}
    assert {key: result.config[key] for key in expected} == expected
    assert result.config["learner_options"]["threshold"] == 0.2
    assert result.config["training"]["schedule"] == "step"
    result = quick_fit(folder / "recipe.yaml", data=pair(), fan_in=2)
    assert result.config["learner_options"].items() >= {"fan_in": 2, "update": "literal", "seed": 5}.items()


def test_a_learner_is_given_as_in_a_recipe(folder: Path) -> None:
    """Its options may be called what arguments of fit are called; a recipe's do not get mixed in."""
    result = quick_fit(folder / "recipe.yaml", learner={"name": "maskconnect", "seed": 9}, data=pair(), seed=2)
    assert result.config["seed"] == 2
    assert result.config["learner_options"].items() >= {"seed": 9, "update": "balanced", "fan_in": None}.items()
    for learner, text in (
        ({"seed": 9}, "the learner needs 'name'"),
        ({"name": "maskconnect", "fanin": 1}, "unknown option 'fanin' of learner 'maskconnect'"),
    ):
        with pytest.raises(OptionError, match=text):
            quick_fit(folder / "tiny.yaml", learner=learner, data=pair())


def test_a_recipe_that_was_read_runs_as_its_file(folder: Path) -> None:
    """What the command line runs is what fit runs from the file."""
    one = quick_fit(load_recipe(folder / "recipe.yaml", {}), data=pair())
    other = quick_fit(folder / "recipe.yaml", data=pair())
    assert one.config == other.config
    assert untimed(one.history) == untimed(other.history)
    assert load_recipe(folder / "tiny.yaml", {"learner": "fixed"}).name == "tiny-fixed"


@pytest.mark.parametrize(
    ("old", "new", "where", "text"),
    [
        ("epochs: 2", "epoch: 2", "7:1", "unknown parameter 'epoch' of a recipe; did you mean 'epochs'?"),
        ("epochs: 2", "epochs: 0", "7:9", "'epochs' of a recipe is 0, but it should be greater than 0"),
        ("epochs: 2", "epochs: many", "7:9", "'epochs' of a recipe is 'many', but it should be a whole number"),
        ("lr: 0.02", "lr: .inf", "9:5", "'lr' of a recipe is inf, but it should be a finite number"),
        ("precision: bfloat16", "precision: half", "11:12", "'auto', 'float32' or 'bfloat16'"),
        ("topolearn: 1", "topolearn: 2", "2:12", "'topolearn' of a recipe is 2, but it should be 1"),
        ("graph: tiny.yaml", "graph: tiny.yml", "", "tiny.yml: no such file"),
        ("name: maskconnect", "name: maskconect", "", "unknown learner 'maskconect'; did you mean 'maskconnect'?"),
        ("fan_in: 1", "fanin: 1", "", "unknown option 'fanin' of learner 'maskconnect'; did you mean 'fan_in'?"),
        ("schedule: step", "shedule: step", "", "unknown parameter 'shedule' of training; did you mean 'schedule'?"),
        ("{search: 1", "{serch: 1", "", "has no phase 'serch'; did you mean 'search'?"),
        ("head.dropout: 0.5", "head.drop: 0.5", "--set nodes.head.drop", "did you mean 'dropout'?"),
    ],
)
def test_bad_recipes(folder: Path, old: str, new: str, where: str, text: str) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(TopolearnError) as caught:
        quick_fit(folder / "recipe.yaml", data=pair())
    message = str(caught.value)
    assert text in message
    assert "\n" not in message
    if where:
        assert where in message


@pytest.mark.parametrize("name", ["nowhere.yaml", "digit", "folder"])
def test_missing_files(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    with pytest.raises(FormatError) as caught:
        quick_fit(name)
    assert name in str(caught.value)


# -- settings of the command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": "3"}, {"epochs": 3}),
        ({"lr": "1"}, {"lr": 1.0}),
        ({"lr": "1e-3"}, {"lr": 0.001}),
        ({"batch_size": "8", "seed": "4"}, {"batch_size": 8, "seed": 4}),
        ({"data": "cifar10"}, {"data": "cifar10"}),
        ({"precision": "bfloat16"}, {"precision": "bfloat16"}),
        ({"schedule": "step"}, {"training": {"schedule": "step"}}),
        ({"training.schedule": "step"}, {"training": {"schedule": "step"}}),
        ({"milestones": "[0.2, 0.4]"}, {"training": {"milestones": (0.2, 0.4)}}),
        ({"clip_grad_norm": "null"}, {"training": {"clip_grad_norm": None}}),
        ({"phases.search": "0.3"}, {"training": {"phases": {"search": 0.3}}}),
        ({"node_lr.e[1..9]": "0.1", "node_lr.a": "2"}, {"training": {"node_lr": {"e[1..9]": 0.1, "a": 2}}}),
        ({"training.node_lr.a": "2"}, {"training": {"node_lr": {"a": 2}}}),
        ({"phases.fine_tune": "false"}, {"training": {"phases": {"fine_tune": 0.0}}}),
        ({"phases": "{search: 1}"}, {"training": {"phases": {"search": 1}}}),
        ({"phases.search.lr": "0.1"}, {"training": {"phases": {"search": {"lr": 0.1}}}}),
        ({"phases.search.milestones": "[0.5]"}, {"training": {"phases": {"search": {"milestones": (0.5,)}}}}),
        ({"phases.search": "{share: 1, lr: 2}"}, {"training": {"phases": {"search": {"share": 1, "lr": 2}}}}),
        ({"phases.search": "2", "phases.search.lr": "1"}, {"training": {"phases": {"search": {"share": 2, "lr": 1}}}}),
        ({"phases.search.lr": "1", "phases.search": "2"}, {"training": {"phases": {"search": {"share": 2, "lr": 1}}}}),
        ({"nodes.head.classes": "4"}, {"graph_set": {"nodes.head.classes": 4}}),
        ({"inputs.image": "[3, 8, 8]"}, {"graph_set": {"inputs.image": (3, 8, 8)}}),
        ({"name": "other"}, {"graph_set": {"name": "other"}}),
        ({"fan_in": "2"}, {"learner": {"name": "maskconnect", "fan_in": 2}}),
        ({"learner.fan_in": "2"}, {"learner": {"name": "maskconnect", "fan_in": 2}}),
        ({"learner": "toponet", "threshold": "0.1"}, {"learner": {"name": "toponet", "threshold": 0.1}}),
        *(
            ({"learner": "continuous", key: "0.5"}, {"learner": {"name": "continuous", "budget": {"macs": 0.5}}})
            for key in ("budget.macs", "learner.budget.macs")
        ),
    ],
)
def test_every_kind_of_key(settings: dict[str, str], expected: dict[str, Any]) -> None:
    found = apply_settings(recipe(), settings).model_dump(exclude_none=False)
    for key, value in expected.items():
        assert found[key] == value


def test_settings_change_what_a_recipe_has() -> None:
    before = recipe(
        learner={"name": "maskconnect", "fan_in": 1, "seed": 3},
        training={"schedule": "step", "phases": {"search": 1}},
        graph_set={"nodes.head.classes": 3},
    )
    after = apply_settings(before, {"fan_in": "2", "power": "2", "phases.fine_tune": "1", "nodes.head.dropout": "0.1"})
    assert (after.learner.name, after.learner.options) == ("maskconnect", {"fan_in": 2, "seed": 3})
    assert after.training == {"schedule": "step", "phases": {"search": 1, "fine_tune": 1}, "power": 2}
    assert after.graph_set == {"nodes.head.classes": 3, "nodes.head.dropout": 0.1}
    # Another learner does not know the first one's options.
    other = apply_settings(before, {"learner": "continuous"}).learner
    assert (other.name, other.options) == ("continuous", {})
    assert apply_settings(before, {"learner": "maskconnect"}).learner == before.learner
    bound = recipe(learner={"name": "continuous", "budget": {"macs": 0.5}})
    assert apply_settings(bound, {"budget.params": "0.8"}).learner.options == {"budget": {"params": 0.8}}


def test_settings_change_what_a_phase_has() -> None:
    before = recipe(training={"phases": {"search": 0.75, "fine_tune": {"share": 0.25, "lr": 0.1}}})

    def changed(settings: dict[str, str]) -> Any:
        return apply_settings(before, settings).training["phases"]

    assert changed({"phases.search.lr": "2"})["search"] == {"share": 0.75, "lr": 2}
    assert changed({"phases.search": "0.5"}) == {"search": 0.5, "fine_tune": {"share": 0.25, "lr": 0.1}}
    assert changed({"phases.fine_tune": "0.5"})["fine_tune"] == {"share": 0.5, "lr": 0.1}
    assert changed({"phases.fine_tune": "false"})["fine_tune"] == {"share": 0.0, "lr": 0.1}
    assert changed({"phases.fine_tune": "{lr: 0.5}"})["fine_tune"] == {"lr": 0.5}
    with pytest.raises(OptionError, match="'phases' of training is 3, but it should map names of phases to shares"):
        apply_settings(recipe(training={"phases": 3}), {"phases.search": "1"})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fanin": "2"}, "--set fanin: unknown setting; did you mean 'fan_in'?"),
        ({"shedule": "step"}, "did you mean 'schedule'?"),
        (
            {"threshold": "0.1"},
            "--set threshold: learner 'maskconnect' has no such option; it is an option of continuous, sparsemask",
        ),
        ({"budget.macs": "0.5"}, "--set budget.macs: learner 'maskconnect' has no such option; it is an option of"),
        ({"learner.budget": "{macs: 0.5}"}, "--set learner.budget: learner 'maskconnect' has no such option; it is"),
        ({"learner": "continuous", "lr_scale": "2"}, "'continuous' has no such option; it is an option of maskconnect"),
        ({"learner": "masconnect"}, "unknown learner 'masconnect'; did you mean 'maskconnect'?"),
        ({"epochs": "0"}, "'epochs' of --set is 0, but it should be greater than 0"),
        ({"epochs": "soon"}, "'epochs' of --set is 'soon', but it should be a whole number"),
        ({"seed": "-1"}, "'seed' of --set is -1"),
        ({"phases.": "1"}, "--set phases.: unknown setting"),
        ({"lr": "[1"}, "--set lr=[1"),
    ],
)
def test_bad_settings(settings: dict[str, str], text: str) -> None:
    with pytest.raises(TopolearnError) as caught:
        apply_settings(recipe(), settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# -- options of training ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shedule": "step"}, "unknown parameter 'shedule' of training; did you mean 'schedule'?"),
        ({"schedule": "sometimes"}, "'schedule' of training is 'sometimes', but it should be 'cosine', 'step'"),
        ({"optimizer": "adam"}, "'optimizer' of training is 'adam', but it should be 'sgd' or 'adamw'"),
        ({"momentum": 1.0}, "'momentum' of training is 1.0, but it should be less than 1"),
        ({"nesterov": True, "momentum": 0.0}, "training: 'nesterov' needs a 'momentum' above 0"),
        ({"weight_decay": float("inf")}, "'weight_decay' of training is inf, but it should be a finite number"),
        ({"milestones": [0.5, 2]}, "'milestones.1' of training is 2"),
        ({"phases": {"search": -1}}, "'phases.search' of training is -1"),
        ({"phases": {"search": float("nan")}}, "'phases.search' of training is nan, but it should be a share"),
        ({"phases": {"search": True}}, "'phases.search' of training is True, but it should be a share"),
        ({"phases": {"search": "long"}}, "'phases.search' of training is 'long', but it should be a share"),
        ({"phases": {"search": {"share": -1}}}, "'phases.search.share' of training is -1"),
        ({"phases": {"search": {"lr": 0}}}, "'phases.search.lr' of training is 0"),
        ({"phases": {"search": {"lrr": 1}}}, "unknown key 'lrr' of a phase; did you mean 'lr'?"),
        ({"phases": {"search": {"milestones": [0.5, 1]}}}, "'phases.search.milestones.1' of training is 1"),
        ({"clip_grad_norm": 0}, "'clip_grad_norm' of training is 0"),
        ({"checkpoint_steps": 0}, "'checkpoint_steps' of training is 0"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        run(training=options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_are_frozen_and_plain() -> None:
    lists = TrainOptions(mean=[0.1], std=[0.2])  # type: ignore[arg-type]
    assert (lists.mean, lists.std) == ((0.1,), (0.2,))
    options = TrainOptions(phases={"search": 1}, milestones=[0.1])  # type: ignore[arg-type]
    assert hash(options) == hash(TrainOptions(phases={"search": 1.0}, milestones=(0.1,)))
    assert options.model_dump()["phases"] == {"search": 1.0}
    assert type(options.model_dump()["phases"]) is dict
    assert validate(TrainOptions, {"weight_decay": 0}, "training").weight_decay == 0


# -- config.yaml --------------------------------------------------------------------------------


def test_config_reads_back(tmp_path: Path) -> None:
    result = run(tmp_path / "run", epochs=2, lr=1e-5)
    config = read_config(tmp_path / "run" / "config.yaml")
    assert config == {key: _tuples(value) for key, value in result.config.items()}
    assert write_config(config) == write_config(result.config)
    assert config["lr"] == 1e-5


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("text", ["", "graph: [", "graph: tiny\n", "- 1\n", "\x00\x01"])
def test_damaged_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path / "config.yaml")
    assert str(caught.value).startswith(str(tmp_path / "config.yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such file"):
        read_config(tmp_path / "absent.yaml")


def test_compared_configs_name_the_key() -> None:
    old = {"lr": 0.1, "training": {"schedule": "step", "workers": 0}, "classes": ("a", "b")}
    compare_config(old, {**old, "training": {"schedule": "step", "workers": 4}}, Path("runs/x"))
    for new, text in (
        ({"lr": 0.2}, "the run in runs/x began with lr 0.1, not 0.2"),
        ({"training": {"schedule": "poly", "workers": 0}}, "began with training.schedule step, not poly"),
        ({"classes": ("a",)}, "began with classes [a, b], not [a]"),
        ({"more": 1}, "began with more null, not 1"),
    ):
        with pytest.raises(CheckpointError) as caught:
            compare_config(old, {**old, **new}, Path("runs/x"))
        assert text in str(caught.value)
        assert "resume it with the same settings, or choose another folder" in str(caught.value)


def test_compared_phases_name_what_changed() -> None:
    old = {"training": {"phases": {"search": 0.75, "fine_tune": {"share": 0.25, "lr": 0.1}}}}

    def changed(**phases: Any) -> dict[str, Any]:
        return {"training": {"phases": {**old["training"]["phases"], **phases}}}

    compare_config(old, changed(search={"share": 0.75}), Path("runs/x"))
    for new, text in (
        (changed(search=0.5), "training.phases.search.share 0.75, not 0.5"),
        (changed(search={"share": 0.75, "lr": 0.5}), "training.phases.search.lr null, not 0.5"),
        (changed(fine_tune={"share": 0.25, "lr": 0.2}), "training.phases.fine_tune.lr 0.1, not 0.2"),
        (changed(fine_tune=0.25), "training.phases.fine_tune.lr 0.1, not null"),
        ({"training": {"phases": {}}}, "training.phases.search.share 0.75, not null"),
    ):
        with pytest.raises(CheckpointError) as caught:
            compare_config(old, new, Path("runs/x"))
        assert f"the run in runs/x began with {text};" in str(caught.value)


def test_documents_without_a_mapping() -> None:
    with pytest.raises(FormatError):
        parse("- 1", "list.yaml")
    assert graph().name == "tiny"
