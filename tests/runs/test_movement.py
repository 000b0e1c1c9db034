"""The record of how the learner's values moved: evenly over the search, small, and the same bytes after a resume."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import topolearn
from topolearn.errors import CheckpointError, TopolearnError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, make_learner
from topolearn.runs.movement import MOST_BYTES, MOST_ROWS, MovementWriter, learnable, read_movement


@pytest.fixture
def graph() -> Graph:
    return topolearn.load_graph("digits")


def record(folder: Path, learner: EdgeLearner, steps: int, first: int = 0, last: int | None = None) -> None:
    """Add rows as a search does whose values are the number of steps taken."""
    writer = MovementWriter(folder, learner.graph, steps, first)
    for step in range(first, (steps if last is None else last) + 1):
        with torch.no_grad():
            next(learner.parameters()).fill_(step / 1000)
        writer.add(step, learner)


@pytest.mark.parametrize("steps", [1, 7, MOST_ROWS, 1000, 100_003])
def test_rows_lie_evenly_over_the_search(graph: Graph, steps: int, tmp_path: Path) -> None:
    record(tmp_path, make_learner("continuous", graph), steps)
    found = read_movement(tmp_path, graph)
    assert found is not None
    taken, values = found
    assert (taken[0], taken[-1]) == (0, steps)
    assert len(set(np.diff(taken)[:-1].tolist())) <= 1
    assert min(steps, MOST_ROWS // 2) <= len(taken) <= MOST_ROWS
    assert values.shape == (len(taken), len(learnable(graph)))
    assert np.allclose(values, taken[:, None] / 1000)


@pytest.mark.parametrize("stopped", [0, 3, 4, 250, 999])
def test_a_search_that_goes_on_gives_the_same_bytes(graph: Graph, stopped: int, tmp_path: Path) -> None:
    learner = make_learner("continuous", graph)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    record(tmp_path / "whole", learner, 1000)
    record(tmp_path / "parts", learner, 1000, last=min(stopped + 100, 1000))
    with open(tmp_path / "parts" / "movement.f32", "ab") as file:
        file.write(b"cut")  # a process that was killed while it wrote
    record(tmp_path / "parts", learner, 1000, first=stopped)
    assert (tmp_path / "parts" / "movement.f32").read_bytes() == (tmp_path / "whole" / "movement.f32").read_bytes()


LARGE = """
topolearn: 1
name: large
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv, out_channels: 2}
  n[1..180]: {op: identity, input: {channels: 2, stride: 1}}
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "n[1..180]"], learnable: true}
  - {from: n180, to: head}
outputs: [head]
"""


def test_the_file_stays_small(tmp_path: Path) -> None:
    graph, steps = loads(LARGE), 10**6
    row = 4 * (len(learnable(graph)) + 1)
    assert row * MOST_ROWS > MOST_BYTES
    rows = steps // MovementWriter(tmp_path, graph, steps, 0).every + 2
    assert 0.9 * MOST_BYTES < rows * row <= MOST_BYTES


def test_a_run_records_its_search(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = topolearn.fit("digits", epochs=4, out=folder, device="cpu", export=False, quiet=True)
    found = read_movement(folder, result.searched)
    assert found is not None
    steps, values = found
    positions = learnable(result.searched)
    assert np.allclose(values[-1], result.learner.edge_values().detach()[positions], atol=1e-6)
    assert not np.allclose(values[0], values[-1])
    assert steps[-1] == 2 * 22  # half of the epochs
    fixed = topolearn.fit("digits", "fixed", epochs=1, out=tmp_path / "fixed", device="cpu", export=False, quiet=True)
    assert read_movement(tmp_path / "fixed", fixed.searched) is None


@pytest.mark.parametrize("name", ["maskconnect", "continuous", "sparsemask"])
def test_recording_changes_nothing(name: str, graph: Graph, tmp_path: Path) -> None:
    learner = make_learner(name, graph).train()
    learner.edge_weights()  # a step, which may draw
    before = copy.deepcopy(learner.state_dict())
    drawn = torch.random.get_rng_state()
    MovementWriter(tmp_path, graph, 10, 0).add(0, learner)
    assert learner.training
    after = learner.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value) if isinstance(value, torch.Tensor) else str(after[key]) == str(value), key
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_a_file_of_another_run(graph: Graph, tmp_path: Path) -> None:
    record(tmp_path, make_learner("continuous", graph), 10)
    path = tmp_path / "movement.f32"
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(CheckpointError, match=r"movement\.f32: is not the record of this run; remove it"):
        read_movement(tmp_path, graph)
    path.write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(CheckpointError, match="is not the record of this run; remove it"):
        read_movement(tmp_path, graph)
    path.unlink()
    path.mkdir()
    with pytest.raises(TopolearnError, match=r"cannot write .*movement.f32: Is a directory; make room, then --resume"):
        MovementWriter(tmp_path, graph, 10, 0).add(0, make_learner("continuous", graph))
