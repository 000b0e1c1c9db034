"""Colours of classes: the same ones always, told apart by eyes of three kinds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from topolearn.drawing.palette import MAX_COLOURS, VOID, class_colours

DEUTERANOPIA = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
"""Linear RGB as in Viénot, Brettel and Mollon (1999): another model than the one that colours are chosen by."""


def linear(colours: np.ndarray) -> np.ndarray:
    share = colours / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear RGB, D65."""
    xyz = rgb @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.where(
        (t := xyz / np.array([0.9505, 1.0, 1.089])) > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29
    )
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def nearest(colours: np.ndarray) -> float:
    """The least distance between two of (N, 3) colours in L*a*b*."""
    places = cielab(colours)
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(places, 2))


def test_the_first_ones_do_not_change() -> None:
    assert [f"#{bytes(colour).hex()}" for colour in class_colours(11)] == [
        "#56b4e9",
        "#d55e00",
        "#f0e442",
        "#cc79a7",
        "#e69f00",
        "#009e73",
        "#0072b2",
        "#691e1e",
        "#3c0f96",
        "#001eff",
        "#0fe1b4",
    ]


def test_a_class_keeps_its_colour_however_many_there_are() -> None:
    whole = class_colours(MAX_COLOURS)
    assert whole.shape == (MAX_COLOURS, 3)
    assert whole.dtype == np.uint8
    for count in (0, 1, 2, 21, 150):
        assert np.array_equal(class_colours(count), whole[:count])


def test_no_two_are_the_same_and_none_is_void_or_white() -> None:
    colours = {tuple(map(int, colour)) for colour in class_colours(MAX_COLOURS)}
    assert len(colours) == MAX_COLOURS
    assert not colours & {VOID, (255, 255, 255)}


def test_those_of_21_classes_are_far_apart_and_from_void() -> None:
    colours = np.concatenate([class_colours(21), np.array([VOID], np.uint8)])
    # Of as many random colours the nearest two are 9 apart, on average.
    assert nearest(linear(colours)) > 15
    assert nearest(np.clip(linear(colours) @ DEUTERANOPIA.T, 0, 1)) > 10


def test_what_is_given_can_be_changed() -> None:
    class_colours(3)[:] = 7
    assert tuple(class_colours(3)[0]) == (0x56, 0xB4, 0xE9)


@pytest.mark.parametrize("count", [-1, 257])
def test_more_than_an_8_bit_mask_can_tell_apart(count: int) -> None:
    with pytest.raises(ValueError, match="0 to 256 classes"):
        class_colours(count)
