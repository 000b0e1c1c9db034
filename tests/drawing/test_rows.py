"""Rows of pictures: every one in its place, at its proportions, and the colours of the classes in lines below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawing.samples import Drawing
from topolearn.drawing.palette import class_colours
from topolearn.drawing.rows import WIDTH, draw_rows
from topolearn.errors import TopolearnError

RED, GREEN, BLUE = ([255, 0, 0], [0, 255, 0], [0, 0, 255])


def plain(height: int, width: int, colour: list[int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


def legend(*names: str) -> list[tuple[str, np.ndarray]]:
    return list(zip(names, class_colours(len(names)), strict=True))


def patch(picture: np.ndarray, colour: list[int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what has a colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def test_pictures_stand_side_by_side_at_their_proportions(tmp_path: Path) -> None:
    rows = [[plain(30, 60, RED), plain(30, 60, GREEN)], [plain(80, 20, BLUE), plain(80, 20, [0, 9, 9])]]
    draw_rows(rows, tmp_path / "one.png", ("left", "right"), [])
    picture = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    assert picture.shape[1] == 160 * WIDTH
    red, green, tall = (patch(picture, colour) for colour in (RED, GREEN, BLUE))
    assert (red[0], red[1]) == (green[0], green[1])
    assert red[3] < green[2]
    assert (red[3] - red[2]) / (red[1] - red[0]) == pytest.approx(2, rel=0.01)
    assert tall[0] > red[1]
    # A tall one does not make its row as high as it would be at full width; it stands in the middle of its column.
    assert (tall[3] - tall[2]) / (tall[1] - tall[0]) == pytest.approx(1 / 4, rel=0.02)
    assert tall[1] - tall[0] < 1.25 * (red[3] - red[2])
    assert (tall[2] + tall[3]) / 2 == pytest.approx((red[2] + red[3]) / 2, abs=2)


def test_what_an_svg_holds(tmp_path: Path) -> None:
    draw_rows(
        [[plain(8, 9, RED), plain(8, 9, BLUE)]] * 2, tmp_path / "one.svg", ("seen", "known"), legend("a<b&", "$x$")
    )
    drawing = Drawing(tmp_path / "one.svg")
    assert {"seen-0", "known-0", "seen-1", "known-1"} <= {
        image.get("id") for image in drawing.root.iter() if image.get("id")
    }
    assert [tuple((255 * image).mean(axis=(0, 1)).round()) for image in drawing.images()] == [
        tuple(RED),
        tuple(BLUE),
    ] * 2
    assert {"seen", "known", "$x$"} <= set(drawing.words())
    for colour in class_colours(2):
        assert f"fill: #{bytes(colour).hex()}" in drawing.text


def test_a_long_legend_takes_several_lines(tmp_path: Path) -> None:
    heights = []
    for count in (0, 4, 40):
        draw_rows([[plain(9, 9, RED)]], tmp_path / "one.png", ("one",), legend(*(f"class {i}" for i in range(count))))
        with Image.open(tmp_path / "one.png") as picture:
            heights.append(picture.height)
    assert heights[0] < heights[1] < heights[2] - 100


def test_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    for ending in ("svg", "png"):
        for name in ("one", "two"):
            draw_rows([[noise]], tmp_path / f"{name}.{ending}", ("noise",), legend("a"))
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopolearnError, match=r"give it one of the endings \.svg, \.png, \.pdf"):
        draw_rows([[plain(2, 2, RED)]], tmp_path / "one.gif", ("one",), [])
