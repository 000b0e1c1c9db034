"""The page about a run: its tables, its curves, what was kept, how values moved; of several runs side by side."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import topolearn
from topolearn.errors import CheckpointError, OptionError
from topolearn.runs.report_page import write_report

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    for learner, seed in (("maskconnect", 0), ("maskconnect", 1), ("fixed", 0)):
        out = place / f"{learner}-{seed}"
        topolearn.fit("digits", learner, epochs=2, seed=seed, out=out, device="cpu", export=False, quiet=True)
    return sorted(place.iterdir())


def test_one_run(runs: list[Path], tmp_path: Path, run: Run) -> None:
    status, out, err = run("report", str(runs[1]), "-o", str(tmp_path / "page.html"))
    assert (status, err) == (0, "")
    assert "page.html: open it in a browser" in out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for heading in ("Result", "Training", "What was kept", "How the values moved", "Settings"):
        assert f"<h2>{heading}</h2>" in text
    result = topolearn.runs.read_result(runs[1])
    assert f"{result.graph.cost.params:,}</td>" in text
    assert "learner: maskconnect" in text
    assert text.count('class="picture"><svg') == 1
    result.report(tmp_path / "again.html")
    assert abs((tmp_path / "again.html").stat().st_size - len(text.encode())) < 2000


def test_a_run_that_learned_no_edges_has_no_values(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "What was kept" in text
    assert "How the values moved" not in text
    assert 'class="picture"' not in text


def test_a_result_without_a_folder(tmp_path: Path) -> None:
    result = topolearn.fit("digits", epochs=2, device="cpu", quiet=True)
    result.report(tmp_path / "page.html")
    assert "digits: maskconnect" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[1:], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>maskconnect-0 and maskconnect-1</title>" in text
    for name in ("maskconnect-0", "maskconnect-1"):
        assert f"<h2>How the values moved: {name}</h2>" in text
    first, second = (
        {(edge.src, edge.dst) for edge in topolearn.load_graph(folder / "graph.yaml").edges} for folder in runs[1:]
    )
    learnable = {(e.src, e.dst) for e in topolearn.load_graph(runs[1] / "search.yaml").edges if e.learnable}
    differing = (first ^ second) & learnable
    assert differing
    assert f"{len(first & second & learnable):,} edges are kept by all" in text
    assert f"{len(differing):,} by some of them." in text
    for src, dst in differing:
        assert f"{src} → {dst}</td>" in text


def test_the_curve_of_a_sweep(runs: list[Path], tmp_path: Path, run: Run) -> None:
    folder = Path(shutil.copytree(runs[1], tmp_path / "swept"))
    write_report([folder], tmp_path / "before.html")
    status, _, err = run("prune", str(folder), "--sweep", "--device", "cpu", "--quiet")
    assert status == 0, err
    write_report([folder], tmp_path / "page.html")
    heading = "What pruning more edges costs"
    assert heading not in (tmp_path / "before.html").read_text(encoding="utf-8")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert heading in text
    for order in ("by magnitude", "at random"):
        assert order in text
    for damaged in ("order,removed\nx,y", "order,removed,accuracy\nx,1\n", "order\nx\n"):
        (folder / "sweep.csv").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"sweep.csv: cannot be read; make it again with topolearn prune"):
            write_report([folder], tmp_path / "again.html")


def test_what_cannot_be_reported(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"give it the ending \.html"):
        write_report(runs, tmp_path / "page.pdf")
    with pytest.raises(OptionError, match="9 runs were given, and a page shows 1 to 8"):
        write_report(3 * runs, tmp_path / "page.html")
    with pytest.raises(CheckpointError, match=r"config.yaml: no such file"):
        write_report([tmp_path], tmp_path / "page.html")
    unfinished = Path(shutil.copytree(runs[1], tmp_path / "unfinished"))
    lines = (unfinished / "history.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "history.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match="is not finished; go on with --resume"):
        write_report([unfinished], tmp_path / "page.html")
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(OptionError, match=r"Bokeh is not installed; run: pip install 'topolearn-torch\[report\]'"):
        write_report(runs[:1], tmp_path / "page.html")
    assert not list(tmp_path.glob("*.html"))
