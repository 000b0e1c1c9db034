"""What a finished run delivers: its table, its ONNX file, its pictures, and how fast it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import TEXT, graph, pair, quick_fit, run, text_pair
from topolearn.errors import ExportError, OptionError
from topolearn.format import loads
from topolearn.onnx.runtime import Latency
from topolearn.runs import FitResult, read_result
from topolearn.runs.delivery import MATRIX, MODEL, PICTURE, time_run

DELIVERED = {MODEL, PICTURE, MATRIX}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & DELIVERED


def test_fit_delivers_into_its_folder(tmp_path: Path) -> None:
    result = run(tmp_path / "run", export=True)
    assert files(tmp_path / "run") == DELIVERED
    assert result.exported is not None
    assert result.exported.path == tmp_path / "run" / MODEL
    assert max(result.exported.errors.values()) < 1e-4


def test_a_finished_run_is_not_exported_again(tmp_path: Path) -> None:
    run(tmp_path / "run", export=True)
    (tmp_path / "run" / MODEL).write_bytes(b"mine")
    again = run(tmp_path / "run", export=True, resume=True)
    assert again.exported is None
    assert (tmp_path / "run" / MODEL).read_bytes() == b"mine"


def test_a_run_that_was_stopped_before_its_export_is_exported(tmp_path: Path) -> None:
    trained = run(tmp_path / "run", export=False)
    again = run(tmp_path / "run", export=True, resume=True)
    assert files(tmp_path / "run") == {MODEL, PICTURE, MATRIX}
    assert again.exported is not None
    assert again.metrics == trained.metrics


def test_without_export_there_are_the_run_s_own_files_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "run", export=False).exported is None
    assert not files(tmp_path / "run")


def test_a_network_that_cannot_be_exported_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ExportError("no")

    monkeypatch.setattr(FitResult, "export", refuse)
    with pytest.warns(UserWarning, match="the network was not exported: no"):
        result = run(tmp_path / "run", export=True)
    assert files(tmp_path / "run") == {PICTURE, MATRIX}
    assert read_result(tmp_path / "run").metrics == result.metrics


def test_a_result_draws_and_exports_itself(tmp_path: Path) -> None:
    result = run()
    result.draw(tmp_path / "graph.svg")
    assert "<svg" in (tmp_path / "graph.svg").read_text(encoding="utf-8")
    report = result.export(tmp_path / "net.onnx", dynamic=())
    assert report.dynamic == ()
    assert (tmp_path / "net.onnx").is_file()
    for name in ("net.pt2", "net.py"):
        assert result.export(tmp_path / name).path == tmp_path / name
        assert (tmp_path / name).is_file()
    assert result.export(tmp_path / "other", "pt2", check=False).errors == {}
    with pytest.raises(OptionError, match="the format torch has no option 'precision'"):
        result.export(tmp_path / "half.py", precision="float16")
    with pytest.raises(OptionError, match=r"'net\.PTH' would be a file of weights alone; write NAME"):
        result.export(tmp_path / "net.PTH")
    with pytest.raises(OptionError, match="unknown format 'pt'; did you mean 'pt2'"):
        result.export(tmp_path / "net.pt", "pt")
    with pytest.raises(OptionError, match=r"goes to a .py file, not to 'net\.onnx'"):
        result.export(tmp_path / "net.onnx", "torch")


def test_a_printed_result_is_its_closing_table(tmp_path: Path) -> None:
    result = run(tmp_path / "run")
    lines = repr(result).splitlines()
    assert lines[0] == "tiny: maskconnect"
    assert lines[1].split() == ["given", "end", "of", "search", "final", "change"]
    # Training began with random weights, so there is no accuracy to compare with.
    accuracy = next(line for line in lines if line.startswith("accuracy")).split()
    assert accuracy == ["accuracy", f"{result.searched_metrics['accuracy']:.2%}", f"{result.metrics['accuracy']:.2%}"]
    edges = next(line for line in lines if line.startswith("edges")).split()
    assert edges[1:3] == [str(len(result.searched.edges)), str(len(result.graph.edges))]
    assert edges[3].startswith("-")
    assert repr(read_result(tmp_path / "run")) == repr(result)


@pytest.mark.parametrize(
    ("learner", "options", "hint"),
    [
        ("continuous", {"threshold": 0.0}, "nothing was removed: give a budget or a threshold"),
        (
            "sparsemask",
            {"penalty_strength": 1e-9},
            "nothing was removed: give a budget or a threshold, or train longer",
        ),
        ("maskconnect", {"fan_in": 3}, "nothing was removed: give a smaller fan_in"),
        ("maskconnect", {"fan_in": 1}, None),
        ("fixed", {"rule": "full"}, None),
    ],
)
def test_where_nothing_was_removed_the_table_says_what_would(
    learner: str, options: dict[str, Any], hint: str | None
) -> None:
    table = quick_fit(graph(), learner, pair(), epochs=2, batch_size=4, lr=0.01, **options).table()
    assert table.note == hint


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (
            {},
            "exactly the edges that did not start at 0 were kept; to let the others grow, give penalty_strength 0 and"
            " threshold 0, or train longer",
        ),
        ({"penalty_strength": 0.0}, "exactly the edges that did not start at 0 were kept"),
        ({"penalty_strength": 0.0, "threshold": 0.0}, "nothing was removed: give a budget or a threshold"),
        ({"penalty_strength": 0.0, "threshold": 0.0, "keep": 2}, None),
        (
            {"penalty_strength": 0.0, "threshold": 0.9, "keep": 2},
            "exactly the edges that did not start at 0 were kept",
        ),
    ],
)
def test_the_table_says_if_the_starting_chain_is_left(options: dict[str, Any], note: str | None) -> None:
    text = {"epochs": 2, "batch_size": 4, "training": {"steps_per_epoch": 2}}
    assert quick_fit(loads(TEXT), "continuous", text_pair(), **text, **options).table().note == note


def test_the_table_says_if_fewer_edges_than_asked_for_are_left() -> None:
    text = {"epochs": 2, "batch_size": 4, "training": {"steps_per_epoch": 2}}
    result = quick_fit(loads(TEXT), "continuous", text_pair(), **text, penalty_strength=0.0, threshold=0.0, keep=2)
    result.config["learner_options"]["threshold"] = 0.01
    assert result.table().note is None  # two are left wherever there are two
    result.config["learner_options"]["keep"] = 3
    assert result.table().note == "2 nodes keep fewer than 3 edges; with threshold 0, the 3 largest stay"


def test_the_one_level_rule_has_a_row_if_it_leaves_something_else() -> None:
    result = quick_fit(graph(), "fixed", pair(), epochs=1, batch_size=4, lr=0.01, rule="full")
    params = result.graph.cost.params
    assert result.one_level_params == params
    for more in (0, 7):
        result.one_level_params = params + more
        rows = [row[0] for row in result.table().cells() if "parameters" in row[0]]
        assert rows == ["parameters", "parameters, one-level rule"][: 2 if more else 1]


def test_a_learner_without_such_options_gets_no_advice() -> None:
    result = quick_fit(graph(), "continuous", pair(), epochs=2, batch_size=4, lr=0.01, threshold=0.0)
    result.config["learner_options"] = {"mine": 1}
    assert result.table().note == "nothing was removed"


def test_times_are_shown_with_their_quartiles() -> None:
    result = run()
    given, final = time_run(result)
    assert isinstance(given, Latency)
    for each in (given, final):
        assert each.quartiles[0] <= each.p50 <= each.quartiles[1] <= max(each.p90, each.quartiles[1])
        assert each.runs == 200
    *_, row = result.table((given, replace(given, p50=given.p50 / 2))).cells()
    assert row[0] == "ONNX Runtime, batch 1, median (quartiles)"
    assert row[-1] == ""  # the same quartiles: a difference that may be chance
    low, high = given.quartiles
    *_, row = result.table((given, replace(final, p50=low / 8, quartiles=(low / 10, low / 5)))).cells()
    assert row[-1].startswith("-")
    assert f"({low:.3f}–{high:.3f}) ms" in row[1]
