"""Curves: written whole, the same bytes every time, and every point where it belongs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from tests.drawing.samples import Drawing
from topolearn.drawing.curve import CurvePanel, Line, Mark, draw_curves
from topolearn.errors import OptionError

X = (0.0, 0.25, 0.5, 1.0)
FIRST = Line("first", X, (0.9, 0.8, 0.7, 0.1))
SECOND = Line("second, mean ± std", X, (0.9, 0.7, 0.4, 0.2), spread=(0.0, 0.1, 0.2, 0.05))
ABOVE = CurvePanel("accuracy", (FIRST, SECOND), Mark("choice", 0.5, 0.9))
BELOW = CurvePanel("MACs left", (FIRST, replace(SECOND, spread=None)), Mark("choice", 0.5, 0.4), height=0.4)


def drawing(path: Path, *panels: CurvePanel) -> Drawing:
    draw_curves(panels, path, title="a title", below="share of 8 edges removed")
    return Drawing(path)


def scaled(values: tuple[float, ...], places: list[float]) -> np.ndarray:
    """Where ``values`` would be, if the first and the last are where ``places`` say."""
    gain = (places[-1] - places[0]) / (values[-1] - values[0])
    return places[0] + gain * (np.array(values) - values[0])


def test_points_are_to_scale(tmp_path: Path) -> None:
    picture = drawing(tmp_path / "one.svg", ABOVE, BELOW)
    for panel in (ABOVE, BELOW):
        number = (ABOVE, BELOW).index(panel)
        for place, line in enumerate(panel.lines):
            xs, ys = zip(*(point for point, _ in picture.marks(f"line-{number}-{place}")), strict=True)
            assert np.allclose(xs, scaled(line.x, list(xs)), atol=1e-3)
            assert np.allclose(ys, scaled(line.y, list(ys)), atol=1e-3)
            assert ys[0] < ys[-1]  # an SVG's y goes down


def test_lines_and_marks_of_a_panel_share_its_axes(tmp_path: Path) -> None:
    picture = drawing(tmp_path / "one.svg", ABOVE, BELOW)
    first, second = (dict(zip(X, picture.marks(f"line-0-{place}"), strict=True)) for place in (0, 1))
    assert first[0.0][0] == second[0.0][0]
    ((x, y), _) = picture.marks("mark-0")[0]
    assert x == pytest.approx(first[0.5][0][0])
    assert y == pytest.approx(first[0.0][0][1])
    assert first[1.0][0][1] > second[1.0][0][1]


def test_panels_stand_below_each_other_over_one_axis(tmp_path: Path) -> None:
    picture = drawing(tmp_path / "one.svg", ABOVE, BELOW)
    upper, lower = ([point for point, _ in picture.marks(f"line-{number}-0")] for number in (0, 1))
    assert [x for x, _ in upper] == [x for x, _ in lower]
    assert max(y for _, y in upper) < min(y for _, y in lower)


def test_a_band_only_where_there_is_a_spread(tmp_path: Path) -> None:
    picture = drawing(tmp_path / "one.svg", ABOVE, BELOW)
    assert {name for name in picture.groups if name and name.startswith("band")} == {"band-0-1"}


def test_words(tmp_path: Path) -> None:
    words = drawing(tmp_path / "one.svg", ABOVE, BELOW).words()
    assert {"a title", "accuracy", "MACs left", "share of 8 edges removed", "100%"} <= set(words)
    assert [words.count(name) for name in ("first", "second, mean ± std", "choice")] == [1, 1, 1]


def test_a_quantity_that_is_no_share_has_plain_numbers(tmp_path: Path) -> None:
    plain = replace(
        ABOVE,
        label="bits_per_byte",
        lines=(replace(FIRST, y=(2.4001, 2.4002, 2.4003, 2.4004)),),
        mark=Mark("choice", 0.5, 2.4002),
        is_share=False,
    )
    words = drawing(tmp_path / "one.svg", plain).words()
    axis = [word for word in words if word.startswith("2.4")]
    assert len(axis) > 2, words
    assert {word for word in words if word.endswith("%")} == {f"{share}%" for share in range(0, 101, 10)}


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        for name in ("one", "two"):
            draw_curves([ABOVE], tmp_path / f"{name}.{suffix}", title="t", below="x")
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    pixels = image.imread(tmp_path / "one.png")
    assert not np.all(pixels == 1.0)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"give it one of the endings \.svg"):
        draw_curves([ABOVE], tmp_path / "one.jpg", title="t", below="x")
    assert list(tmp_path.iterdir()) == []
