"""Pruning a run anew: the network of the search, other options of its learner."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import topolearn
from tests.training.runs import graph, run
from tests.training.test_dense_fit import scenes, train
from topolearn import cli
from topolearn.errors import CheckpointError, OptionError
from topolearn.runs import FitResult, read_learned, read_result
from topolearn.runs.delivery import draw_run
from topolearn.runs.folder import MOVEMENT, SEARCH_STATE
from topolearn.runs.searched import load_searched
from topolearn.runs.tensor_files import load_tensors
from topolearn.samples.seeds import mix
from topolearn.studies.reprune import reprune
from topolearn.studies.sweep import OWN, sweep
from topolearn.training.phases import recalibrate

pytestmark = pytest.mark.filterwarnings("ignore:the run's data 'toy' cannot be found")


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
    state = load_tensors(finished.folder / SEARCH_STATE)
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


@pytest.mark.gpu
def test_measured_on_a_gpu(finished: FitResult, tmp_path: Path) -> None:
    assert finished.folder is not None
    here, there = (reprune(finished.folder, tmp_path / each, {"fan_in": "1"}, device=each) for each in ("cpu", "cuda"))
    assert there.metrics == pytest.approx(here.metrics, abs=0.01)
    assert {p.device.type for p in there.model.parameters()} == {"cpu"}


def test_the_folder_is_a_run_like_any_other(finished: FitResult, tmp_path: Path) -> None:
    assert finished.folder is not None
    first = reprune(finished.folder, tmp_path / "first", {"fan_in": "1"})
    assert files(tmp_path / "first") == files(finished.folder)
    # The search is the same one, so what it recorded goes along.
    assert (tmp_path / "first" / MOVEMENT).read_bytes() == (finished.folder / MOVEMENT).read_bytes()
    # It can be drawn, with what the learner thought of every edge …
    learned, before = read_learned(tmp_path / "first"), read_learned(finished.folder)
    assert learned.values == before.values
    assert sum(learned.kept) < sum(before.kept)
    assert draw_run(first, tmp_path / "first") == (tmp_path / "first" / "graph.svg", tmp_path / "first" / "matrix.svg")
    # … pruned again, also back to what it was …
    again = reprune(tmp_path / "first", tmp_path / "again", {"fan_in": "2"})
    assert again.graph == reprune(finished.folder, tmp_path / "two", {"fan_in": "2"}).graph
    for name in ("weights.safetensors", "graph.yaml", "search.safetensors", "config.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    # … and is what `fit` finds there.
    assert fit_again(tmp_path / "first", fan_in=1).graph == first.graph
    with pytest.raises(CheckpointError, match="fan_in"):
        fit_again(tmp_path / "first", fan_in=2)


def test_the_command_draws_it_too(
    finished: FitResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    monkeypatch.setattr(
        "sys.argv", ["topolearn", "prune", str(finished.folder), "--set", "fan_in=1", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert finished.folder is not None
    assert files(out) == files(finished.folder) | {"graph.svg", "matrix.svg"}
    assert f"{out / 'matrix.svg'}: the learner's value of every edge" in capsys.readouterr().out


def files(run_dir: Path) -> set[str]:
    """What a run has left, but for what TensorBoard reads."""
    return {path.name for path in run_dir.iterdir()} - {"tensorboard"}


def fit_again(folder: Path, **options: object) -> FitResult:
    """The run of :func:`finished`, resumed in ``folder``."""
    small = graph(channels=1, classes=10)
    training = {"train_images": 600}
    return run(folder, "maskconnect", "digits", graph=small, batch_size=256, training=training, resume=True, **options)


@pytest.mark.parametrize("learner", ["sparsemask", "continuous"])
def test_a_run_of_masks_has_a_table_of_classes(tmp_path: Path, learner: str) -> None:
    root = scenes(tmp_path / "set")
    (root / "classes.txt").write_text("sky\nroad\ncar")
    whole = train(root, out=tmp_path / "run", learner=learner)
    result = reprune(tmp_path / "run", tmp_path / "small", {"threshold": "0.9"}, tmp_path)
    assert files(tmp_path / "small") == files(tmp_path / "run")
    assert [row["class"] for row in result.per_class] == ["sky", "road", "car"]
    assert result.metrics["miou"] == pytest.approx(sum(row["iou"] for row in result.per_class) / 3)
    assert result.per_class != whole.per_class
    rows = (tmp_path / "small" / "classes.csv").read_text().splitlines()
    assert rows[0] == "class,iou,accuracy,pixels"
    assert [row.split(",")[0] for row in rows[1:]] == ["sky", "road", "car"]
    assert read_result(tmp_path / "small").per_class == result.per_class


def test_statistics_are_those_of_the_pruned_network(tmp_path: Path) -> None:
    """As at the end of the search, where the learner asks for it: `prune --set` and `prune --sweep` agree."""
    small = graph(channels=1, classes=10)
    run(tmp_path / "run", "continuous", "digits", graph=small, batch_size=256, training={"train_images": 600})
    result = reprune(tmp_path / "run", tmp_path / "small", {"threshold": "0.99"})
    searched = load_searched(tmp_path / "run", {"threshold": "0.99"})
    net = topolearn.prune(searched.net)
    stale = {name: value.clone() for name, value in net.state_dict().items()}
    recalibrate(net, searched.data(), 256, mix("recalibrate", 0))
    fresh, found = net.state_dict(), topolearn.load_model(tmp_path / "small").state_dict()
    assert all(torch.equal(found[name], value) for name, value in fresh.items())
    assert any(not torch.equal(found[name], value) for name, value in stale.items())
    (own,) = sweep(tmp_path / "run", settings={"threshold": "0.99"}, shares=(0.0,), quiet=True).at(OWN, None)
    assert result.metrics == pytest.approx(own.metrics)


def test_a_number_of_edges_per_node_needs_no_training(tmp_path: Path) -> None:
    run(tmp_path / "run", "continuous", penalty_strength=0.0, threshold=0.0)
    for keep in (1, 2):
        result = reprune(tmp_path / "run", tmp_path / f"keep{keep}", {"keep": str(keep)})
        learner = load_searched(tmp_path / "run", {"keep": str(keep)}).learner
        weights = learner.edge_weights().tolist()
        strongest = {
            i
            for indices in learner.graph.candidates.values()
            for i in sorted(indices, key=lambda i: abs(weights[i]))[-keep:]
        }
        kept = {i for i, stays in enumerate(learner.topology().keep) if stays and learner.graph.edges[i].learnable}
        assert kept == strongest
        assert result.config["learner_options"]["keep"] == keep
        assert read_result(tmp_path / f"keep{keep}").graph == result.graph
    with pytest.raises(OptionError, match="give 'keep', a number of edges per node, or 'budget'"):
        reprune(tmp_path / "keep1", tmp_path / "both", {"budget": "{macs: 0.7}"})


def test_other_prices_are_in_the_state_of_the_search_too(tmp_path: Path) -> None:
    run(tmp_path / "run", "continuous")
    cut = reprune(tmp_path / "run", tmp_path / "cut", {"budget": "{macs: 0.7}"})
    assert reprune(tmp_path / "run", tmp_path / "dotted", {"budget.macs": "0.7"}).graph == cut.graph
    params = reprune(tmp_path / "cut", tmp_path / "params", {"budget.params": "0.8"})  # another kind of budget
    assert params.config["learner_options"]["budget"] == {"macs": None, "params": 0.8, "milliseconds": None}
    with pytest.raises(OptionError, match="needs one of 'macs', 'params' and 'milliseconds'"):
        reprune(tmp_path / "cut", tmp_path / "two", {"budget.params": "0.8", "budget.macs": "0.8"})
    assert read_learned(tmp_path / "cut").values == read_learned(tmp_path / "run").values
    assert reprune(tmp_path / "cut", tmp_path / "freed", {"budget": "null"}).spent is None


def test_data_that_have_no_name_are_not_measured_on(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.warns(
        UserWarning, match=r"the run's data 'toy' cannot be found, so nothing is measured: there is no .*; say where"
    ):
        result = reprune(tmp_path / "run", tmp_path / "again")
    assert (result.metrics, result.searched_metrics) == ({}, {})


def test_statistics_that_cannot_be_computed_anew_are_told_of(tmp_path: Path) -> None:
    run(tmp_path / "run", "continuous", epochs=2)
    with pytest.warns(UserWarning, match=r"batch statistics stay as before pruning.*with --data-root or --data"):
        assert reprune(tmp_path / "run", tmp_path / "again").metrics == {}


def test_nothing_is_written_where_something_is_wrong(finished: FitResult, tmp_path: Path) -> None:
    assert finished.folder is not None
    with pytest.raises(CheckpointError, match="already holds a run; choose another folder with --out"):
        reprune(finished.folder, finished.folder)
    with pytest.raises(
        OptionError, match="--set fanin: unknown option of learner 'maskconnect'; did you mean 'fan_in'"
    ):
        reprune(finished.folder, tmp_path / "out", {"fanin": "1"})
    with pytest.raises(OptionError, match=r"learner 'maskconnect'; it is an option of continuous, sparsemask"):
        reprune(finished.folder, tmp_path / "out", {"threshold": "0.1"})
    with pytest.raises(OptionError, match=r"--set step: .* acts in training, .*; give fan_in, seed, or search again"):
        reprune(finished.folder, tmp_path / "out", {"step": "0.1"})
    with pytest.raises(OptionError, match="device 'cuda:99' cannot be used"):
        reprune(finished.folder, tmp_path / "out", device="cuda:99")
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
