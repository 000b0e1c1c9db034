"""The prune curve: what is removed, what is left, and that it is measured on the network of the search."""

from __future__ import annotations

import csv
import io
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from tests.drawing.samples import Drawing
from tests.training.runs import graph, run
from topolearn.errors import CheckpointError, DataError, OptionError, TrainingError
from topolearn.graph import Topology, removal_order
from topolearn.graph.price import Alive
from topolearn.learners import EdgeLearner
from topolearn.runs.folder import CONFIG, SEARCH_STATE
from topolearn.runs.searched import SearchedRun, load_searched
from topolearn.runs.tensor_files import save_tensors
from topolearn.samples.seeds import mix
from topolearn.studies.sweep import MAGNITUDE, OWN, RANDOM, Sweep, SweepPoint, sweep
from topolearn.training import phases

LEARNERS = ("continuous", "sparsemask", "maskconnect")
LEARNABLE = 8
SHARES = (0.0, 0.25, 0.5, 1.0)

Folder = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Gives the folder of a finished run on digits."""
    made: dict[str, Path] = {}

    def find(learner: str) -> Path:
        if learner not in made:
            made[learner] = tmp_path_factory.mktemp("runs") / learner
            small = graph(channels=1, classes=10)
            run(made[learner], learner, "digits", graph=small, batch_size=256, training={"train_images": 600})
        return made[learner]

    return find


@pytest.fixture(scope="module")
def found(folder: Folder) -> Callable[[str], Sweep]:
    made: dict[str, Sweep] = {}

    def find(learner: str) -> Sweep:
        if learner not in made:
            made[learner] = measured(folder(learner))
        return made[learner]

    return find


def measured(folder: Path, **options: Any) -> Sweep:
    settings: dict[str, Any] = {"shares": SHARES, "seeds": (0, 1), "device": "cpu", "quiet": True}
    return sweep(folder, **(settings | options))


def change(folder: Path, copy: Path, alter: Callable[[EdgeLearner], None]) -> Path:
    """A copy of a run whose learner ended otherwise."""
    shutil.copytree(folder, copy)
    searched = load_searched(copy)
    with torch.no_grad():
        alter(searched.learner)
    save_tensors(copy / SEARCH_STATE, searched.net.state_dict(), {})
    return copy


def by_hand(searched: SearchedRun, topology: Topology) -> dict[str, float]:
    """Metrics of the searched network masked by a topology, its statistics computed anew; nothing is pruned."""
    net, data = searched.net, searched.data()
    net.set_edge_weights(topology.edge_weights())
    phases.recalibrate(net, data, 256, mix("recalibrate", 0))
    return searched.evaluate(net, data)


class TestPoints:
    @pytest.mark.parametrize("learner", LEARNERS)
    def test_every_order_at_every_share_and_the_learner_s_choice(
        self, learner: str, found: Callable[[str], Sweep]
    ) -> None:
        result = found(learner)
        wanted = [
            (order, seed, share) for order, seed in ((MAGNITUDE, None), (RANDOM, 0), (RANDOM, 1)) for share in SHARES
        ]
        assert [(point.order, point.seed, point.asked) for point in result.rows] == [*wanted, (OWN, None, None)]
        assert (result.name, result.learnable, result.metrics) == (f"tiny: {learner}", LEARNABLE, ("accuracy",))
        for point in result.rows:
            assert point.asked is None or point.removed >= min(point.asked, 1 - 2 / LEARNABLE)
            assert 0 <= point.metrics["accuracy"] <= 1

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_a_line_goes_from_all_edges_to_one_path(self, learner: str, found: Callable[[str], Sweep]) -> None:
        result = found(learner)
        for order in (MAGNITUDE, RANDOM):
            for point in result.at(order, 0.0):
                # SparseMask ends with gates at 0.
                assert (point.removed > 0.0) == (learner == "sparsemask")
                assert (point.size == result.searched) == (learner != "sparsemask")
            for point in result.at(order, 1.0):
                # image -> stem -> a -> b -> head, of whose edges two are learnable.
                assert (point.removed, point.size.nodes, point.size.edges) == (1 - 2 / LEARNABLE, 5, 4)

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_the_weakest_go_first(self, learner: str, folder: Folder, found: Callable[[str], Sweep]) -> None:
        searched = load_searched(folder(learner))
        learner_now, made = searched.learner, searched.graph
        order = removal_order(made, learner_now.edge_values().tolist())
        for share in (0.25, 0.5):
            (point,) = found(learner).at(MAGNITUDE, share)
            for count in range(len(order)):  # the first that is enough
                topology = learner_now.without(order[:count])
                left = sum(made.edges[i].learnable for i in Alive.of(made, topology.keep).edges)
                if LEARNABLE - left >= share * LEARNABLE:
                    break
            assert point.removed == (LEARNABLE - left) / LEARNABLE
            assert point.size.edges == len(Alive.of(made, topology.keep).edges)
            assert point.metrics == pytest.approx(by_hand(load_searched(folder(learner)), topology), abs=1e-6)

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_the_learner_s_choice_is_what_prune_gives(
        self, learner: str, folder: Folder, found: Callable[[str], Sweep]
    ) -> None:
        searched = load_searched(folder(learner))
        (own,) = found(learner).at(OWN, None)
        assert own.size.edges == len(topolearn.prune(searched.net).graph.edges)
        assert own.metrics == pytest.approx(by_hand(searched, searched.learner.topology()), abs=1e-6)

    def test_nothing_removed_is_the_searched_network(self, folder: Folder) -> None:
        searched = load_searched(folder("continuous"))
        result = measured(folder("continuous"), shares=(0.0,), seeds=(0,), recalibrate=False)
        assert result.at(MAGNITUDE, 0.0)[0].metrics == pytest.approx(searched.evaluate(searched.net, searched.data()))
        assert "batch statistics were not recomputed" in str(result.table().note)

    def test_seeds_are_orders_of_their_own_and_nested(self, folder: Folder) -> None:
        result = measured(folder("continuous"), shares=(0.2, 0.4, 0.6), seeds=(0, 1, 2))
        lines = [[point.size for point in result.rows if point.seed == seed] for seed in (0, 1, 2)]
        losses = [[point.metrics["loss"] for point in result.rows if point.seed == seed] for seed in (0, 1, 2)]
        assert len({tuple(line) for line in losses}) == 3
        for line in lines:
            assert [size.edges for size in line] == sorted((size.edges for size in line), reverse=True)

    def test_equal_arguments_give_equal_files(
        self, folder: Folder, found: Callable[[str], Sweep], tmp_path: Path
    ) -> None:
        found("continuous").save(tmp_path / "one")
        torch.manual_seed(99)
        before = torch.get_rng_state()
        measured(folder("continuous"), out=tmp_path / "two")
        assert torch.equal(torch.get_rng_state(), before)
        names = ["sweep.csv", "sweep.md", "sweep.svg"]
        for each in ("one", "two"):
            assert sorted(path.name for path in (tmp_path / each).iterdir()) == names
        assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


class TestZeros:
    def test_edges_of_weight_0_are_gone_from_the_start_in_both_orders(self, folder: Folder, tmp_path: Path) -> None:
        def clear(learner: EdgeLearner) -> None:
            learner.alpha[1:3] = 0.0  # type: ignore[index, operator]

        result = measured(change(folder("continuous"), tmp_path / "run", clear), shares=(0.0, 0.1, 0.4))
        for order in (MAGNITUDE, RANDOM):
            for share in (0.0, 0.1):
                assert {point.removed for point in result.at(order, share)} == {0.25}
            assert {point.size.edges for point in result.at(order, 0.0)} == {result.searched.edges - 2}
            assert all(point.removed >= 0.4 for point in result.at(order, 0.4))
        # Asked for 10 %, as much is gone as before: no row of its own.
        assert [row[1] for row in result.table().rows] == ["0", "0", "40", "40", None]

    def test_a_search_that_lost_every_path(self, folder: Folder, tmp_path: Path) -> None:
        lost = change(folder("continuous"), tmp_path / "run", lambda learner: learner.alpha.zero_())  # type: ignore[operator, union-attr]
        with pytest.raises(TrainingError, match="ended with all paths to an output at weight 0"):
            measured(lost)

    def test_masks_of_0_weigh_1_where_they_are_kept(self, folder: Folder, tmp_path: Path) -> None:
        def clear(learner: EdgeLearner) -> None:
            learner.mask[1] = 0.0  # type: ignore[index, operator]

        result = measured(change(folder("maskconnect"), tmp_path / "run", clear), shares=(0.0,), seeds=(0,))
        assert result.at(MAGNITUDE, 0.0)[0].size == result.searched


class TestTables:
    def point(self, order: str, seed: int | None, asked: float | None, removed: float, accuracy: float) -> SweepPoint:
        from topolearn.studies.comparison import GraphSize

        size = GraphSize(1000 - round(1000 * removed), 2_000_000, 10, 5)
        return SweepPoint(order, seed, asked, removed, {"loss": 1.0, "accuracy": accuracy}, size)

    def result(self) -> Sweep:
        from topolearn.studies.comparison import GraphSize

        rows = (
            self.point(MAGNITUDE, None, 0.5, 0.55, 0.9),
            self.point(RANDOM, 0, 0.5, 0.5, 0.6),
            self.point(RANDOM, 4, 0.5, 0.6, 0.8),
            self.point(OWN, None, None, 0.25, 0.95),
        )
        return Sweep("g: continuous", GraphSize(1000, 4_000_000, 20, 8), 12, (0.5,), (0, 4), True, rows)

    def test_random_orders_are_one_row(self) -> None:
        table = self.result().table()
        assert [tuple(map(str, row[:4])) for row in table.rows] == [
            (MAGNITUDE, "50", "55.0", "90.00"),
            (RANDOM, "50", "55.0", "70.00 ± 14.14"),
            (OWN, "None", "25.0", "95.00"),
        ]
        assert table.columns[3] == "accuracy, %"
        assert [row[4:] for row in table.rows][1] == ("2.00", "450", "10.0", "5.0")
        assert table.note is not None
        assert "mean ± sample standard deviation over orders drawn by seeds 0, 4" in table.note

    def test_bits_per_byte_are_no_per_cent(self, tmp_path: Path) -> None:
        shares = self.result()
        rows = tuple(
            replace(point, metrics={"bits_per_byte": 5 * point.metrics["accuracy"], **point.metrics})
            for point in shares.rows
        )
        text = replace(shares, rows=rows)
        table = text.table()
        assert table.columns[3:5] == ("bits_per_byte", "accuracy, %")
        assert [tuple(map(str, row[3:5])) for row in table.rows] == [
            ("4.5000", "90.00"),
            ("3.5000 ± 0.7071", "70.00 ± 14.14"),
            ("4.7500", "95.00"),
        ]
        text.draw(tmp_path / "text.svg")
        above, below = (
            [word for word in Drawing(tmp_path / "text.svg").words() if re.fullmatch(pattern, word)]
            for pattern in (r"[\d.]+", r"[\d.]+%")
        )
        assert above
        assert all(2 < float(word) < 6 for word in above)
        assert "bits_per_byte" in Drawing(tmp_path / "text.svg").words()
        assert below, "costs and removed edges stay shares"

    def test_every_point_is_a_row_for_programs(self) -> None:
        rows = list(csv.DictReader(io.StringIO(self.result().csv())))
        assert rows[0] == {
            "order": MAGNITUDE,
            "seed": "",
            "asked": "0.5",
            "removed": "0.55",
            "loss": "1.0",
            "accuracy": "0.9",
            "parameters": "450",
            "macs": "2000000",
            "edges": "10",
            "nodes": "5",
        }
        assert [row["seed"] for row in rows] == ["", "0", "4", ""]

    def test_the_picture_shows_accuracy_and_costs(self, found: Callable[[str], Sweep], tmp_path: Path) -> None:
        result = found("continuous")
        result.draw(tmp_path / "sweep.svg")
        picture = Drawing(tmp_path / "sweep.svg")
        assert [len(picture.marks(f"line-{panel}-{line}")) for panel in (0, 1) for line in (0, 1)] == [len(SHARES)] * 4
        assert {"mark-0", "mark-1", "band-0-1", "band-1-1"} <= set(picture.groups)
        words = picture.words()
        assert {"tiny: continuous", "accuracy", "MACs left", MAGNITUDE, "at random, mean ± std", OWN} <= set(words)
        assert f"share of the {LEARNABLE} learnable edges removed" in words


class TestErrors:
    def test_a_run_without_a_search(self, tmp_path: Path) -> None:
        run(tmp_path / "run", "fixed")
        message = "has no search.safetensors: its search has not ended, or learner 'fixed' does not search"
        with pytest.raises(CheckpointError, match=message):
            measured(tmp_path / "run", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"config\.yaml: no such file"):
            measured(tmp_path)

    def test_data_without_a_name_say_where_they_were_looked_for(self, tmp_path: Path) -> None:
        run(tmp_path / "run")
        with pytest.raises(DataError, match="there is no way to find the run's data 'toy', a set of your own"):
            measured(tmp_path / "run", data_root=tmp_path / "data", out=tmp_path / "out")
        config = tmp_path / "run" / CONFIG  # an earlier version did not store where data were found
        config.write_text(
            "".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith("content:"))
        )
        with pytest.raises(
            DataError, match=f"there is no data set 'toy', and no such folder in .*'{tmp_path / 'data'}'"
        ):
            measured(tmp_path / "run", data_root=tmp_path / "data", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_data_can_be_given(self, tmp_path: Path) -> None:
        from tests.data.toys import toy

        run(tmp_path / "run")
        result = measured(tmp_path / "run", data=toy(), shares=(0.0,), seeds=(0,))
        assert result.metrics == ("accuracy",)

    def test_data_of_other_classes(self, folder: Folder, tmp_path: Path) -> None:
        shutil.copytree(folder("continuous"), tmp_path / "run")
        config = tmp_path / "run" / CONFIG
        config.write_text(config.read_text().replace('classes: ["0", "1"', 'classes: ["zero", "1"'))
        with pytest.raises(DataError, match="found as 'digits' have other classes than the run's"):
            measured(tmp_path / "run")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shares": ()}, "'shares' is"),
            ({"shares": (0.5, 1.5)}, "must hold shares from 0 to 1"),
            ({"shares": (float("nan"),)}, "must hold shares from 0 to 1"),
            ({"seeds": ()}, "at least one seed"),
            ({"seeds": (1, 1)}, "each once"),
            ({"device": "abacus"}, "device 'abacus' cannot be used"),
            ({"settings": {"treshold": "0.1"}}, "did you mean 'threshold'"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str, folder: Folder) -> None:
        with pytest.raises(OptionError, match=message):
            measured(folder("continuous"), **options)


class TestCommand:
    def test_table_and_files_and_no_model(
        self, run: Callable[..., tuple[int, str, str]], folder: Folder, tmp_path: Path
    ) -> None:
        status, out, err = run(
            "prune", str(folder("continuous")), "--sweep", "--out", str(tmp_path / "out"), "--device", "cpu"
        )
        assert status == 0
        assert out.splitlines()[0] == "tiny: continuous"
        assert len([line for line in out.splitlines() if line.startswith((MAGNITUDE, RANDOM))]) > 10
        assert out.splitlines()[-1] == f"{tmp_path / 'out'}: sweep.md, sweep.csv, sweep.svg"
        assert "at random, seed 2" in err
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sweep.csv", "sweep.md", "sweep.svg"]

    def test_settings_move_the_learner_s_choice_into_the_run_s_folder(
        self, run: Callable[..., tuple[int, str, str]], folder: Folder, tmp_path: Path
    ) -> None:
        shutil.copytree(folder("maskconnect"), tmp_path / "run")
        given = ("--set", "fan_in=1", "--quiet", "--device", "cpu")
        status, out, err = run("prune", str(tmp_path / "run"), "--sweep", *given)
        assert (status, err) == (0, "")
        (own,) = [line for line in out.splitlines() if line.startswith(OWN)]
        # One edge into the head, one into the node that it reads.
        assert own.split()[own.split().index("choice") + 2] == "75.0"
        assert (tmp_path / "run" / "sweep.svg").is_file()

    def test_nothing_to_sweep(self, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
        status, out, err = run("prune", str(tmp_path), "--sweep")
        assert (status, out) == (2, "")
        assert err.startswith(f"error: {tmp_path}/config.yaml: no such file")
        assert err.count("\n") == 1


class TestWithout:
    """What learners say that they keep."""

    @pytest.mark.parametrize("learner", LEARNERS)
    def test_all_edges_at_the_weights_of_kept_ones(self, learner: str, folder: Folder) -> None:
        searched = load_searched(folder(learner))
        whole = searched.learner.without(())
        zero = [value == 0.0 for value in searched.learner.edge_values().tolist()]
        assert [not kept for kept in whole.keep] == zero
        assert any(zero) == (learner == "sparsemask")
        own = searched.learner.topology()
        for i, kept in enumerate(own.keep):
            if kept and searched.graph.nodes[searched.graph.edges[i].dst].aggregate == "sum":
                assert own.weights[i] == whole.weights[i]

    def test_no_warning_on_the_way(self, folder: Folder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            measured(folder("continuous"), shares=(1.0,), seeds=(0,))
