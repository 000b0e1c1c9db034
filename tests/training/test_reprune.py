"""Pruning a run anew: the network of the search, other options of its learner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import topolearn
from tests.training.runs import graph, run
from topolearn.errors import CheckpointError, OptionError
from topolearn.training import FitResult, checkpoint, read_result
from topolearn.training.reprune import reprune
from topolearn.training.searched import load_searched


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    small = graph(channels=1, classes=10)
    return run(folder, "maskconnect", "digits", graph=small, batch_size=256, training={"train_images": 600})


def test_the_network_of_the_search_is_read_back(finished: FitResult) -> None:
    assert finished.folder is not None
    searched = load_searched(finished.folder)
    assert searched.graph == finished.searched
    assert not searched.net.training
    state = checkpoint.load_tensors(finished.folder / checkpoint.SEARCH_STATE)
    own = searched.net.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items() if isinstance(own[name], torch.Tensor))
    # Judged as it was when the search ended, on the same images.
    data = searched.data()
    assert data.train_size == 600
    assert searched.evaluate(searched.net, data) == pytest.approx(finished.searched_metrics)


def test_other_options_give_another_graph(finished: FitResult, tmp_path: Path) -> None:
    assert finished.folder is not None
    result = reprune(finished.folder, tmp_path / "small", {"fan_in": "1"})
    assert len(result.graph.edges) < len(finished.graph.edges)
    assert result.metrics == pytest.approx(result.searched_metrics)  # eval mode keeps the K strongest already
    back = read_result(tmp_path / "small")
    assert (back.graph, back.metrics, back.config["learner_options"]["fan_in"]) == (result.graph, result.metrics, 1)
    images = torch.rand(2, 1, 8, 6)
    assert torch.equal(topolearn.load_model(tmp_path / "small")(images), result.model.eval()(images))


def test_data_that_have_no_name_are_not_measured_on(tmp_path: Path) -> None:
    run(tmp_path / "run")
    result = reprune(tmp_path / "run", tmp_path / "again")
    assert (result.metrics, result.searched_metrics) == ({}, {})


def test_nothing_is_written_where_something_is_wrong(finished: FitResult, tmp_path: Path) -> None:
    assert finished.folder is not None
    with pytest.raises(CheckpointError, match="already holds a run; choose another folder with --out"):
        reprune(finished.folder, finished.folder)
    with pytest.raises(
        OptionError, match="--set fanin: unknown option of learner 'maskconnect'; did you mean 'fan_in'"
    ):
        reprune(finished.folder, tmp_path / "out", {"fanin": "1"})
    with pytest.raises(CheckpointError, match=r"config\.yaml: no such file"):
        reprune(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finished_search_is_cut_to_a_budget(tmp_path: Path) -> None:
    free = run(tmp_path / "free", "continuous")
    cut = reprune(tmp_path / "free", tmp_path / "cut", {"budget": "{macs: 0.7}"})
    assert cut.spent is not None
    assert cut.graph.cost.macs == cut.spent.reached <= 0.7 * free.searched.cost.macs
    assert read_result(tmp_path / "cut").spent == cut.spent
    timed = reprune(tmp_path / "free", tmp_path / "timed", {"budget": "{milliseconds: 0.95}"})
    assert timed.spent is not None
    assert 0.0 < timed.spent.reached <= timed.spent.allowed
    run(tmp_path / "bound", "continuous with a budget")
    freed = reprune(tmp_path / "bound", tmp_path / "freed", {"budget": "null"})
    assert freed.spent is None
