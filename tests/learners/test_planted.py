"""Each learner finds a wiring that is clearly right, with its defaults (MaskConnect is told how many edges to keep)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.learners.planted import halves, search, vectors
from topolearn.learners import MaskConnect, make_learner

LEARNERS: dict[str, dict[str, Any]] = {
    "maskconnect": {"fan_in": 2},
    "continuous": {},
    "sparsemask": {},
}
SEEDS = pytest.mark.parametrize("seed", range(3))


@SEEDS
@pytest.mark.parametrize("learner", LEARNERS)
def test_finds_the_vectors_that_matter(learner: str, seed: int) -> None:
    problem = vectors(seed, common=2.0)
    found = search(problem, make_learner(learner, problem.graph, LEARNERS[learner]), seed=seed, steps=200)
    assert found == problem.wiring


@SEEDS
@pytest.mark.parametrize("learner", LEARNERS)
def test_finds_the_images_that_matter(learner: str, seed: int) -> None:
    problem = halves(seed)
    found = search(problem, make_learner(learner, problem.graph, LEARNERS[learner]), seed=seed, steps=300)
    assert found == problem.wiring


@SEEDS
@pytest.mark.parametrize("options", [{"penalty": "uniform"}, {"proximal": True}], ids=["uniform", "proximal"])
def test_finds_them_under_either_penalty(options: dict[str, Any], seed: int) -> None:
    problem = vectors(seed, common=2.0)
    found = search(problem, make_learner("continuous", problem.graph, options), seed=seed, steps=200)
    assert found == problem.wiring


@SEEDS
def test_the_literal_update_finds_them_where_candidates_have_nothing_in_common(seed: int) -> None:
    problem = vectors(seed, common=0.0)
    learner = MaskConnect(problem.graph, fan_in=2, update="literal", lr_scale=10.0)
    assert search(problem, learner, seed=seed, steps=200) == problem.wiring


def test_the_literal_update_does_not_decide_where_they_have_much_in_common() -> None:
    # What the balanced update is for; see the module's docstring.
    problem = vectors(0, common=2.0)
    literal = MaskConnect(problem.graph, fan_in=2, update="literal", lr_scale=10.0)
    search(problem, literal, seed=0, steps=200)
    assert literal.mask.tolist() == pytest.approx([1.0] * 16, abs=0.1)
    balanced = MaskConnect(problem.graph, fan_in=2)
    search(problem, balanced, seed=0, steps=200)
    kept = torch.tensor(balanced.topology().keep)
    assert float(balanced.mask.detach()[kept].min()) > float(balanced.mask.detach()[~kept].max()) + 0.5
