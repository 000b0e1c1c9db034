"""The request for a run: complete, checked, immutable, and printed as what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.runs import graph, pair
from topolearn.compiler import Network
from topolearn.errors import OptionError
from topolearn.format import loads
from topolearn.learners import MaskConnect
from topolearn.recipes import Recipe, RecipeFile, TrainOptions
from topolearn.recipes.recipe import check_functions


def test_what_nobody_says_has_its_default_by_the_data() -> None:
    found = Recipe.of("digits")
    assert (found.graph.name, found.learner.name) == ("digits", "maskconnect")  # type: ignore[union-attr]
    assert (found.epochs, found.batch_size, found.lr, found.seed) == (40, 64, 0.1, 0)
    assert (found.data, found.chosen_data, found.names_data) == (None, "digits", True)
    plain = Recipe.of(graph())
    assert (plain.chosen_data, plain.names_data, plain.epochs) == ("digits", False, 40)
    own = Recipe.of(graph(), data=pair())
    assert (own.epochs, own.batch_size, own.lr) == (30, 32, 0.05)
    assert Recipe.of("digits", data="cifar10", epochs=3).epochs == 3
    assert Recipe.of("digits", data="cifar10").epochs == 164


TEXT = """
topolearn: 1
name: words
task: next_token
inputs: {tokens: {length: 8, vocabulary: 256}}
nodes:
  embed: {op: embedding, channels: 4}
  block: {op: transformer.block, heads: 2, causal: true}
  head: {op: token_head, classes: 256}
edges:
  - {from: tokens, to: embed}
  - {from: embed, to: block}
  - {from: [embed, block], to: head, learnable: true}
outputs: [head]
"""


def test_text_has_defaults_of_its_own_whatever_its_name() -> None:
    words = loads(TEXT)
    plain = Recipe.of(words)
    assert (plain.data, plain.chosen_data, plain.names_data) == (None, "python-source", False)
    for found in (plain, Recipe.of(words, data="mine.txt"), Recipe.of("gpt12x64-bytes")):
        assert (found.epochs, found.batch_size, found.lr) == (12, 32, 2e-3)
        training = found.training
        assert (training.optimizer, training.betas, training.decay) == ("adamw", (0.9, 0.95), "matrices")
        assert (training.weight_decay, training.lr_floor, training.clip_grad_norm) == (0.1, 0.1, 1.0)
        assert (training.warmup_epochs, training.steps_per_epoch) == (1.0, 100)
    own = Recipe.of(words, training={"betas": (0.8, 0.9), "optimizer": "sgd"}, epochs=2)
    assert (own.training.betas, own.training.optimizer, own.training.decay) == ((0.8, 0.9), "sgd", "matrices")
    file = RecipeFile(graph="gpt12x64-bytes", training={"weight_decay": 0.5})
    assert (Recipe.of(file).training.weight_decay, Recipe.of(file).training.lr_floor) == (0.5, 0.1)


def test_images_are_trained_as_before_there_was_text() -> None:
    training = Recipe.of("digits").training
    assert training == TrainOptions()
    assert (training.optimizer, training.decay, training.lr_floor, training.warmup_steps) == ("sgd", "all", 0.0, None)


def test_a_call_wins_over_a_file_and_a_file_over_defaults() -> None:
    learner = {"name": "maskconnect", "fan_in": 2}
    file = RecipeFile(graph="digits", learner=learner, data="cifar10", lr=0.5, seed=4)  # type: ignore[arg-type]
    found = Recipe.of(file, lr=0.25, precision="auto", training={"schedule": "step"}, learner_options={"step": 0.1})
    assert (found.lr, found.seed, found.data, found.epochs, found.batch_size) == (0.25, 4, "cifar10", 164, 128)
    other = Recipe.of(file, data="digits")
    assert (other.data, other.epochs, other.batch_size, other.lr) == ("digits", 40, 64, 0.5)
    assert found.learner.options == {"fan_in": 2, "step": 0.1}  # type: ignore[union-attr]
    assert found.training.schedule == "step"
    assert found.make_learner().options.seed == 4  # type: ignore[attr-defined]
    assert Recipe.of(file, learner="continuous").learner.options == {}  # type: ignore[union-attr]


def test_a_network_is_a_start() -> None:
    net = Network(graph())
    found = Recipe.of(net)
    assert found.start is net
    assert found.graph is net.graph
    assert Recipe.of(graph()).start is None


def test_a_request_does_not_change() -> None:
    found = Recipe.of("digits", out="runs/x", callbacks=[print])
    with pytest.raises(ValidationError):
        found.epochs = 3  # type: ignore[misc]
    other = found.changed(epochs=3)
    assert (found.epochs, other.epochs, other.out) == (40, 3, Path("runs/x"))
    assert other.callbacks == (print,)


def test_a_request_is_printed_as_what_was_asked_for() -> None:
    text = repr(Recipe.of("digits", learner_options={"fan_in": 3}, out="runs/x", lr=0.2, training={"momentum": 0.5}))
    for part in ("Graph('digits'", "fan_in=3", "runs/x", "lr=0.2"):
        assert part in text
    assert "momentum=0.5" in text
    for default in ("seed", "quiet", "device", "loss", "start", "resume"):
        assert f"{default}=" not in text
    plain = repr(Recipe.of("digits", seed=3))
    assert "seed=3" in plain
    assert "training=" not in plain


def test_a_learner_that_is_there_is_taken_as_it_is() -> None:
    learner = MaskConnect(graph(), fan_in=1)
    assert Recipe.of(graph(), learner).make_learner() is learner


@pytest.mark.parametrize(
    ("loss", "metrics", "callbacks", "text"),
    [
        ("mse", None, (), "'loss' is 'mse', but must be a function"),
        (None, [len], (), "'metrics' is a mapping from name to metric"),
        (None, {"a": None}, (), "'metrics.a' is None, but must be a function"),
        (None, {"loss": len}, (), "'loss' is the name of the training loss"),
        (None, None, print, "'callbacks' is a list of functions"),
        (None, None, [print, 3], "'callbacks[1]' is 3, but must be a function"),
    ],
)
def test_what_cannot_be_called(loss: Any, metrics: Any, callbacks: Any, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        check_functions(loss, metrics, callbacks)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("schedule", "unknown option 'schedule' of learner 'maskconnect'; did you mean training={'schedule': …}?"),
        ("workerz", "did you mean training={'workers': …}?"),
        ("epoch", "unknown option 'epoch' of learner 'maskconnect'; did you mean 'epochs'?"),
        ("fanin", "did you mean 'fan_in'?"),
        ("threshold", "unknown option 'threshold' of learner 'maskconnect'; it is an option of continuous, sparsemask"),
    ],
)
def test_an_unknown_option_may_be_meant_for_training_or_for_the_run(option: str, text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipe.of("digits", learner_options={option: 1}).make_learner()
    assert text in str(caught.value)


def test_an_option_called_as_a_learner_is() -> None:
    with pytest.raises(OptionError, match="unknown option 'name' of learner 'maskconnect'; known: fan_in"):
        Recipe.of("digits", learner_options={"name": "x"})
