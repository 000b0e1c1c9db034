"""What a run learned, read back from its folder, and drawn into it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.drawing.samples import Drawing
from tests.training.runs import run
from topolearn.errors import CheckpointError
from topolearn.runs import FitResult, read_learned
from topolearn.runs.delivery import draw_run
from topolearn.runs.folder import CONFIG, GRAPH, SEARCH_STATE, SEARCHED

PARAMETER = {"maskconnect": "learner.mask", "continuous": "learner.alpha", "sparsemask": "learner.gate"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(out=tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture
def folder(finished: FitResult, tmp_path: Path) -> Path:
    """A copy to spoil."""
    assert finished.folder is not None
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def test_masks_are_those_of_the_end_of_the_search(finished: FitResult) -> None:
    assert finished.folder is not None
    learned = read_learned(finished.folder)
    assert (learned.searched, learned.graph) == (finished.searched, finished.graph)
    assert (learned.learner, learned.title) == ("maskconnect", "tiny: maskconnect")
    masks = load_file(finished.folder / SEARCH_STATE)["learner.mask"].tolist()
    places = [index for indices in learned.searched.candidates.values() for index in indices]
    assert [learned.values[index] for index in places] == masks
    assert len(set(masks)) > 2  # neither 0 nor 1, nor all the same: the real masks, not what was drawn
    assert all(learned.values[i] == edge.weight for i, edge in enumerate(learned.searched.edges) if not edge.learnable)


def test_kept_edges_have_the_largest_masks_of_their_node(finished: FitResult) -> None:
    assert finished.folder is not None
    learned = read_learned(finished.folder)
    kept = learned.kept
    rows = [indices for indices in learned.searched.candidates.values() if any(kept[index] for index in indices)]
    assert rows
    for indices in rows:
        # A candidate whose node has died is dropped whatever its mask.
        alive = [index for index in indices if learned.searched.edges[index].src in learned.graph.nodes]
        dropped = [learned.values[index] for index in alive if not kept[index]]
        assert max(dropped, default=0.0) <= min(learned.values[index] for index in indices if kept[index])


@pytest.mark.parametrize("learner", ["continuous", "sparsemask"])
def test_values_of_other_learners(learner: str, tmp_path: Path) -> None:
    result = run(out=tmp_path / "run", learner=learner)
    learned = read_learned(tmp_path / "run")
    assert result.learner is not None
    state = load_file(tmp_path / "run" / SEARCH_STATE)
    assert PARAMETER[learner] in state
    learner_now = result.learner.eval()
    learner_now.load_state_dict(
        {name.removeprefix("learner."): value for name, value in state.items() if name.startswith("learner.")}
    )
    assert list(learned.values) == learner_now.edge_weights().tolist()


def test_a_rule_needs_no_search(tmp_path: Path) -> None:
    run(out=tmp_path / "run", learner="fixed")
    assert not (tmp_path / "run" / SEARCH_STATE).is_file()
    learned = read_learned(tmp_path / "run")
    places = [index for indices in learned.searched.candidates.values() for index in indices]
    assert {learned.values[index] for index in places} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (CONFIG, "config.yaml: no such file; is this the folder of a run?"),
        (GRAPH, "has no graph.yaml: it is not finished; go on with --resume"),
        (SEARCHED, "has no search.yaml: it is not finished; go on with --resume"),
        (SEARCH_STATE, "has no search.safetensors, which holds the learner's values; name the folder of the run that"),
    ],
)
def test_the_error_names_what_is_missing(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError) as caught:
        read_learned(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_damaged_or_foreign_values(folder: Path) -> None:
    good = (folder / SEARCH_STATE).read_bytes()
    (folder / SEARCH_STATE).write_bytes(good[:100])
    with pytest.raises(CheckpointError, match=r"search\.safetensors: damaged"):
        read_learned(folder)
    (folder / SEARCH_STATE).write_bytes((folder / "weights.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"search\.safetensors: holds no 'mask'"):
        read_learned(folder)


def test_a_run_s_folder_gets_both_pictures(finished: FitResult, folder: Path) -> None:
    assert draw_run(finished, folder) == (folder / "graph.svg", folder / "matrix.svg")
    kept = read_learned(folder).kept
    learnable = sum(mark and edge.learnable for mark, edge in zip(kept, finished.searched.edges, strict=True))
    drawn = Drawing(folder / "matrix.svg")
    assert len(drawn.curves("kept")) == learnable
    assert "tiny: maskconnect" in drawn.words()
    assert len(Drawing(folder / "graph.svg").curves("edges-learned")) == learnable


def test_a_run_without_a_search_gets_no_matrix(finished: FitResult, folder: Path) -> None:
    (folder / SEARCH_STATE).unlink()
    assert draw_run(finished, folder) == (folder / "graph.svg", None)
    assert not (folder / "matrix.svg").exists()
