"""The shipped recipes: each can start, and is what its name and the README say."""

from __future__ import annotations

import functools
import re

import pytest

from benchmarks.results import KINDS, Results
from benchmarks.tables import END, START, TABLES, rewritten
from topolearn.format import library
from topolearn.graph import Graph
from topolearn.learners import make_learner
from topolearn.ops import Shape
from topolearn.ops.backbone import TorchvisionBackbone
from topolearn.options import validate
from topolearn.recipes import RecipeFile, TrainOptions, load_recipe
from topolearn.report import facts
from topolearn.training import lr_factor
from topolearn.training.phases import Scheduled, schedule

NAMES = library.names("models")
CLASSES = {
    "camvid-test": 11,
    "cifar10": 10,
    "cifar100": 100,
    "cifar100-coarse": 20,
    "digits": 10,
    "imagenet": 1000,
    "python-source": 256,
    "voc": 21,
}
DEPTH = {
    "chain": {"name": "fixed", "rule": "prev"},
    "learned": {"name": "continuous", "penalty_strength": 0.0, "threshold": 0.0},
}
"""Last word of a recipe for connections across depth -> its learner; all edges of a learned row are kept."""
LEARNED = DEPTH["learned"]
TEXT = {
    "chain": DEPTH["chain"],
    "chain-longer": DEPTH["chain"],
    "learned": LEARNED,
    "learned-from-mean": LEARNED,
    "learned-from-mean-k3": LEARNED | {"keep": 3},
    "learned-k2": LEARNED | {"keep": 2},
    "learned-k3": LEARNED | {"keep": 3},
    "learned-k4": LEARNED | {"keep": 4},
    "mean-full": {"name": "fixed", "rule": "full"},
    "mean-maskconnect": {"name": "maskconnect", "fan_in": 3},
    "mean-random3": {"name": "fixed", "rule": "random", "fan_in": 3},
    "mean-sparsemask": {"name": "sparsemask"},
    "random3-learned": LEARNED,
    "sublayers-learned": LEARNED,
    "x0-learned": LEARNED,
}
"""What follows ``gpt12x64-bytes-`` in the name of a recipe -> its learner."""
README = (library.folder("models") / "README.md").read_text(encoding="utf-8")


@functools.cache
def loaded(name: str) -> tuple[RecipeFile, Graph]:
    recipe = load_recipe(f"models/{name}.yaml", {})
    return recipe, recipe.searched


def text_row(name: str) -> str:
    """What follows ``gpt12x64-bytes-`` in a recipe's name; empty for other recipes."""
    return name.removeprefix("gpt12x64-bytes-") if name.startswith("gpt12x64-bytes-") else ""


def planned(name: str) -> tuple[RecipeFile, TrainOptions, tuple[Scheduled, ...]]:
    recipe, graph = loaded(name)
    learner = make_learner(recipe.learner.name, graph, recipe.learner.options)
    training = validate(TrainOptions, recipe.training, "training")
    assert recipe.epochs is not None
    return recipe, training, schedule(learner, recipe.epochs, training.phases)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_start(name: str) -> None:
    recipe, graph = loaded(name)
    assert recipe.name == name
    _, _, plan = planned(name)
    assert sum(phase.epochs for phase in plan) == recipe.epochs
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    assert shape.channels == CLASSES[str(recipe.data or graph.data)]
    assert name.startswith(graph.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_says_what_the_learner_does(name: str) -> None:
    recipe, _ = loaded(name)
    learner, options = recipe.learner.name, recipe.learner.options
    kind = name.split("-coarse")[-1]
    if text_row(name):
        assert {"name": learner, **options} == TEXT[text_row(name)]
        return
    if kind.endswith(tuple(DEPTH)):
        assert {"name": learner, **options} == DEPTH[kind.rpartition("-")[2]]
    elif learner == "fixed":
        assert f"-fixed-{options['rule']}" in kind
    elif learner == "maskconnect":
        assert ("-frozen" in kind) == (options.get("step") == 0)
        assert ("-maskconnect" in kind) == ("step" not in options)
    else:
        assert kind.endswith(f"-{learner}" + ("-budget" if "budget" in options else ""))
    fan_in = re.search(r"-k(\d+)$", name)
    if fan_in is not None:
        assert options["fan_in"] == int(fan_in[1])


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_has_a_row(name: str) -> None:
    assert f"[{name}]({name}.yaml)" in README


def test_the_readme_names_no_recipe_that_is_not_there() -> None:
    assert set(re.findall(r"\(([\w-]+)\.yaml\)", README)) == set(NAMES)
    assert set(re.findall(r"models/([\w-]+)\.yaml", README)) <= {*NAMES, "NAME"}


def test_the_measured_table_has_the_columns_that_its_program_writes() -> None:
    sizes = dict.fromkeys((f"{kind}_{graph}" for kind in KINDS for graph in ("searched", "learned")), "1000")
    run = {"recipe": "digits-fixed-prev", "variant": "", "seeds": "0 1 2", "accuracy": "0.5", **sizes}
    (table,) = (table for table in TABLES if table.name == "digits")
    written = f"{START.format('digits')}\n{table.markdown(Results([run]))}\n{END}"
    start = README.index(START.format("digits"))
    old = README[start : README.index(END, start) + len(END)]
    assert written.splitlines()[:3] == old.splitlines()[:3]
    assert "| [digits-fixed-prev](digits-fixed-prev.yaml) | 50.00 |" in written
    page = README[:start] + old
    assert rewritten(old, Results.read()) == (old, [])
    assert rewritten(page.replace(old, written), Results.read()) == (page, ["digits"])


@pytest.mark.parametrize(
    ("name", "epochs", "milestones"),
    [
        ("resnet38-cifar100-fixed-prev", 164, [82, 123]),
        ("resnet110-cifar100-fixed-random", 164, [82, 123]),
        ("resnext29-8x8-cifar100-fixed-full", 300, [150, 225]),
        ("resnext29-64x8-cifar10-fixed-full", 300, [150, 225]),
        ("resnet50-imagenet-fixed-prev", 90, [30, 60]),
    ],
)
def test_baselines_have_the_schedule_of_their_papers(name: str, epochs: int, milestones: list[int]) -> None:
    recipe, options, (train,) = planned(name)
    assert (recipe.epochs, train.epochs, train.phase.lr, recipe.lr) == (epochs, epochs, 1.0, 0.1)
    factors = [lr_factor(options, step, epochs, milestones=train.milestones) for step in range(epochs)]
    drops = [step for step in range(1, epochs) if factors[step] < factors[step - 1]]
    assert all(abs(drop - milestone) <= 1 for drop, milestone in zip(drops, milestones, strict=True))


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if name.startswith("resne") and "coarse" not in name and not name.endswith(tuple(DEPTH))],
)
def test_learned_rows_have_the_budget_of_their_baselines(name: str) -> None:
    recipe, options, plan = planned(name)
    if recipe.learner.name == "fixed":
        return
    search, tune = plan
    assert 0.2 <= tune.epochs / (search.epochs + tune.epochs) <= 0.3
    plateaux = [
        sorted({phase.phase.lr * lr_factor(options, step, 100, milestones=phase.milestones) for step in range(100)})
        for phase in plan
    ]
    assert plateaux[0] == pytest.approx([0.01, 0.1, 1])
    assert plateaux[1] == pytest.approx([0.01, 0.1]), "the last two plateaux again"
    net = re.split("-maskconnect|-frozen", name)[0]
    for other in NAMES:
        if other.startswith(f"{net}-fixed-"):
            assert loaded(other)[0].epochs == recipe.epochs


def test_text_has_all_its_rows() -> None:
    assert {text_row(name) for name in NAMES if text_row(name)} == set(TEXT)


CHAINS = ("", "chain", "chain-longer")
DEPTH_ROWS = [name for name in NAMES if name.endswith("-learned") or text_row(name) not in CHAINS]


def chain_of(name: str) -> str:
    """The recipe of the ordinary network to which a row for connections across depth is compared."""
    return "gpt12x64-bytes-chain" if text_row(name) else name.removesuffix("learned") + "chain"


@pytest.mark.parametrize("name", DEPTH_ROWS)
def test_connections_across_depth_are_trained_as_the_chain(name: str) -> None:
    row, options, phases = planned(name)
    chain, own, (train,) = planned(chain_of(name))
    assert options.model_copy(update={"phases": {}}) == own
    assert sum(phase.epochs for phase in phases) == train.epochs
    if row.learner.name == "continuous" and "keep" not in row.learner.options:
        (search,) = phases
        assert search.phase.lr == train.phase.lr
    fields = ("batch_size", "lr", "data", "seed", "precision")
    assert [getattr(row, field) for field in fields] == [getattr(chain, field) for field in fields]


STARTS_AS_CHAIN = [
    name for name in DEPTH_ROWS if "-learned" in name and not re.search("random3|x0|sublayers|mean", name)
]


@pytest.mark.parametrize("name", STARTS_AS_CHAIN)
def test_learned_connections_start_as_the_chain(name: str) -> None:
    searched = loaded(name)[1]
    starts = [edge.weight for edge in searched.edges]
    assert starts == make_learner("fixed", searched, {"rule": "prev"}).edge_weights().tolist()


def test_the_embedding_is_read_by_every_block_at_weights_that_start_at_0() -> None:
    searched = loaded("gpt12x64-bytes-x0-learned")[1]
    assert len(searched.candidates) == 12
    assert all(edge.weight == (0.0 if edge.learnable else 1.0) for edge in searched.edges)
    assert {edge.src for edge in searched.edges if edge.learnable} == {"embed"}


@pytest.mark.parametrize(("name", "most"), [("random3-learned", 3), ("learned-from-mean", 13)])
def test_other_connections_start_as_their_mean(name: str, most: int) -> None:
    searched = loaded(f"gpt12x64-bytes-{name}")[1]
    for node, candidates in searched.candidates.items():
        weights = [searched.edges[i].weight for i in candidates]
        assert weights == pytest.approx([1 / len(weights)] * len(weights), abs=1e-4)
        assert len(weights) == min(most, list(searched.candidates).index(node) + 1)


def test_sublayers_start_as_a_residual_stream() -> None:
    searched = loaded("gpt12x64-bytes-sublayers-learned")[1]
    assert {edge.weight for edge in searched.edges} == {1.0}
    branches = [node for node in searched.nodes.values() if node.op in ("transformer.attention", "transformer.mlp")]
    assert [len(searched.in_edges(node.id)) for node in branches] == list(range(1, 25))


@pytest.mark.parametrize("name", [name for name in NAMES if text_row(name) or name.startswith("vit12x64")])
def test_transformers_warm_up_for_200_steps_of_the_specified_number(name: str) -> None:
    recipe, options, plan = planned(name)
    assert recipe.batch_size is not None
    total, floor = (1200, 0.1) if text_row(name) else (2000, 0.02)
    if name.endswith("-longer"):
        total = 1332  # as long as 1,200 steps of the learned one take
    per_epoch = options.steps_per_epoch if text_row(name) else (options.train_images or 0) // recipe.batch_size
    assert per_epoch * sum(phase.epochs for phase in plan) == total
    if len(plan) == 1:
        factors = [plan[0].lr_factor(options, step, per_epoch) for step in range(total)]
        assert factors[199] == max(factors) == 1.0
        assert factors.index(1.0) == 199
        assert min(factors[200:]) == factors[-1] == pytest.approx(floor, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("resnet38-preact")])
def test_preact_resnets_take_1500_steps_and_100_to_warm_up(name: str) -> None:
    recipe, options, (phase,) = planned(name)
    assert options.train_images is not None
    assert recipe.batch_size is not None
    per_epoch, rest = divmod(options.train_images, recipe.batch_size)
    assert (per_epoch * phase.epochs, rest) == (1500, 0)
    factors = [phase.lr_factor(options, step, per_epoch) for step in range(1500)]
    assert factors.index(max(factors)) == 99
    assert max(factors) == 1.0


@pytest.mark.parametrize("name", [name for name in NAMES if "camvid" in name or "voc" in name])
def test_decoders_are_trained_as_long_as_what_sparsemask_finds(name: str) -> None:
    recipe, options, plan = planned(name)
    data = "camvid" if "camvid" in name else "voc"
    searched, _, (_, retrain) = planned(f"fdn-mobilenetv2-{data}-sparsemask")
    assert recipe.epochs == (retrain.epochs if "-fixed-" in name else searched.epochs)
    assert options.model_copy(update={"phases": {}}) == planned(f"fcn-mobilenetv2-{data}-fixed-full")[1]
    backbone = loaded(name)[1].nodes["backbone"].rule
    assert isinstance(backbone, TorchvisionBackbone)
    assert (backbone.weights, options.node_lr) == (
        (None, {}) if data == "camvid" else ("IMAGENET1K_V1", {"backbone": 0.1})
    )
    assert len(plan) == (2 if "-sparsemask" in name or "-maskconnect" in name or "-continuous" in name else 1)


@pytest.mark.parametrize(
    ("name", "edges", "decoder"),
    [
        ("fdn-mobilenetv2-voc-fixed-full", 90, 1_934_293),
        ("sparsemask-mobilenetv2-voc-fixed-full", 15, 560_981),
        ("unet-mobilenetv2-voc-fixed-full", 17, 164_821),
        ("fcn-mobilenetv2-voc-fixed-full", 0, 26_901),
        ("fdn-mobilenetv2-camvid-fixed-random", 90, 1_933_643),
    ],
)
def test_rule_based_decoders_have_their_final_form(name: str, edges: int, decoder: int) -> None:
    graph = loaded(name)[1]
    assert sum(edge.op == "conv_resize" for edge in graph.edges) == edges
    assert facts(graph)["decoder_params"] == decoder
