"""The page about a comparison: its table, a dot for each run, and text that stays text."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from topolearn import cli
from topolearn.errors import CheckpointError, OptionError
from topolearn.page import dots
from topolearn.studies.compare_page import write_comparison
from topolearn.studies.comparison import Comparison, GraphSize, Row, RunSummary

HOSTILE = "</script><img src=x onerror=alert(1)>"


def summary(seed: int, accuracy: float) -> RunSummary:
    sizes = GraphSize(1000, 2_500_000, 20, 8), GraphSize(800, 1_500_000, 10 + seed, 7)
    return RunSummary(seed, Path(f"seed-{seed}"), {"accuracy": accuracy}, *sizes, seconds=9.0)


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """The folder of a comparison of three recipes: two runs, one run, none yet."""
    rows = (
        Row(HOSTILE, (summary(0, 0.5), summary(1, 0.6))),
        Row("one, of course", (summary(1, 0.75),)),
        Row("none", ()),
    )
    Comparison(rows, (0, 1), tmp_path / "compared").save()
    return tmp_path / "compared"


def test_the_table_and_the_dots(compared: Path, tmp_path: Path) -> None:
    write_comparison(compared, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<h1>compared</h1>" in text
    assert HOSTILE not in text
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in text
    for cell in ("55.00 ± 7.07", "75.00", "1,000 → 800", "2.50 → 1.50", "20.0 → 10.5", "8.0 → 7.0"):
        assert f">{cell}<" in text, cell
    write_comparison(compared, tmp_path / "again.html")


def test_a_dot_for_each_run() -> None:
    chart: Any = dots("accuracy", {"a": {0: 0.5, 3: 0.7}, "b": {1: 0.6}, "c": {}})
    assert chart.y_range.factors == ["c", "b", "a"]
    bar, mean, points = (renderer.data_source.data for renderer in chart.renderers)
    assert list(bar["left"]) == [pytest.approx(0.6 - 0.1 * 2**0.5)]
    assert list(bar["right"]) == [pytest.approx(0.6 + 0.1 * 2**0.5)]
    assert list(mean["x"]) == [pytest.approx(0.6)]
    assert points == {"name": ["a", "a", "b"], "seed": [0, 3, 1], "value": [0.5, 0.7, 0.6]}
    assert not any(renderer.data_source.data["x"] for renderer in dots("loss", {"a": {}}).renderers)  # type: ignore[attr-defined]


def test_the_command(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["topolearn", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out + captured.err

    page = tmp_path / "page.html"
    assert run(str(compared), "-o", str(page)) == (0, f"{page}: open it in a browser\n")
    assert page.is_file()
    status, text = run(str(compared), str(compared), "-o", str(tmp_path / "two.html"))
    assert status == 2
    assert "is the folder of a comparison, which has a page of its own; report it alone" in text
    assert not (tmp_path / "two.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [],
        lambda rows: [row[1:] for row in rows],
        lambda rows: [*rows, rows[1]],
        lambda rows: [rows[0], [rows[1][0], *("x" for _ in rows[1][1:])]],
    ],
    ids=["empty", "no names", "a name twice", "no numbers"],
)
def test_another_table_is_refused(change: Any, compared: Path, tmp_path: Path) -> None:
    with open(compared / "compare.csv", newline="") as file:
        rows = list(csv.reader(file))
    with open(compared / "compare.csv", "w", newline="") as file:
        csv.writer(file).writerows(change(rows))
    with pytest.raises(CheckpointError, match=r"compare\.csv: is not the table of a comparison"):
        write_comparison(compared, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_another_ending_is_refused(compared: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"give it the ending \.html"):
        write_comparison(compared, tmp_path / "page.pdf")
