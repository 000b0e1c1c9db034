"""Lists of classes beside masks: their forms, what mixes them, and lists of other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.scenes import folder
from tests.data.toys import fails
from topolearn.data import load_data
from topolearn.data.class_list import ClassList, read_class_list
from topolearn.errors import DataError

COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
"""Of the labels of :func:`folder`."""


def read(where: Path, text: str, name: str = "classes.txt") -> ClassList:
    (where / name).write_text(text, encoding="utf-8")
    return read_class_list(where)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("# what the labels are\n0 sky\n\n2 road", {0: "sky", 2: "road"}),
        ("#\nsky\n  # below it\nroad\n", {0: "sky", 1: "road"}),
        ("0,sky\n1,traffic light", {0: "sky", 1: "traffic light"}),
        ("0\n1", {0: "0", 1: "1"}),
    ],
)
def test_comments_are_skipped(tmp_path: Path, text: str, names: dict[int, str]) -> None:
    assert read(tmp_path, text) == ClassList(names)


@pytest.mark.parametrize(
    ("text", "line", "without", "with_label"),
    [
        ("label name\n0 sky\n1 road", 1, "label name", "0 sky"),
        ("0 sky\n1 road\nvoid", 3, "void", "0 sky"),
        ("# names\n\nsky\nroad\n2 void", 3, "sky", "2 void"),
        ("0 0 0 sky\nroad", 2, "road", "0 0 0 sky"),
    ],
)
def test_labels_on_some_lines_are_an_error(tmp_path: Path, text: str, line: int, without: str, with_label: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(
        f"{tmp_path / 'classes.txt'}:{line}: the line '{without}' has no label, but the line '{with_label}' has one; "
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "0 0 0 background\n128 0 0 traffic light\n# grass\n0 128 0 void"),
        ("classes.txt", "0,0,0,background\n128,0,0,traffic light\n0,128,0,void"),
        ("classes.txt", "background 0 0 0\ntraffic light\t128 0 0\nvoid 0 128 0"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ntraffic light:128,0,0::\nvoid:0,128,0::",
        ),
    ],
)
def test_colours_of_labels(tmp_path: Path, name: str, text: str) -> None:
    names = {0: "background", 1: "traffic light", 2: "void"}
    assert read(tmp_path, text, name) == ClassList(names, ((0, 0, 0), (128, 0, 0), (0, 128, 0)))


@pytest.mark.parametrize("text", ["1 1 1 a\n1 1 1 b", "0 0 256 a"])
def test_colours_that_do_not_fit(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="must name each colour once, as R G B NAME, with numbers up to 255"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "0 0 0 0 background\n1 128 0 0 car",
        "0,0,0,0,background\n1,128,0,0,car",
        "0: 0 0 0 background\n1: 128 0 0 car",
        "0 0 0 255 background\n128 0 0 255 car",
        "0 background 0 0 0\n1 car 128 0 0",
        "0:background:0,0,0::\n1:car:128,0,0::",
    ],
)
def test_labels_with_colours_are_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    first = text.splitlines()[0]
    assert str(caught.value) == (
        f"each line of '{tmp_path / 'classes.txt'}' holds four numbers, as in '{first}'; write R G B NAME if the masks"
        " are coloured, or LABEL NAME if they hold the labels, as '128 0 0 car' or '1 car'"
    )


def test_one_name_of_a_coloured_class_may_start_with_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, "0 0 0 background\n128 0 0 2 wheels").names == {0: "background", 1: "2 wheels"}


def test_a_heading_above_colours_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, "name,r,g,b\nbackground,0,0,0\ncar,128,0,0")
    assert str(caught.value) == (
        f"{tmp_path / 'classes.txt'}:1: the line 'name,r,g,b' has no colour, but the line 'background,0,0,0' has one;"
        " end every line with a colour, or no line, and start comments with '#'"
    )


def test_the_other_list_counts_only_without_the_first(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("c")
    (tmp_path / "labelmap.txt").write_text("b")
    assert read_class_list(tmp_path).names == {0: "b"}
    assert read(tmp_path, "a").names == {0: "a"}


@pytest.mark.parametrize(
    "name",
    [
        *("labels.txt", "label_colors.txt", "class_dict.csv", "Classes.TXT", "label_map.pbtxt", "obj.names"),
        *("_classes.csv", "class.txt", "train/classes.txt", "trainannot/classes.txt", "valannot/labelmap.txt"),
    ],
)
def test_lists_of_other_tools_are_refused(tmp_path: Path, name: str) -> None:
    where = folder(tmp_path / "set")
    (where / name).write_text("sky")
    fails(where, f"'{where / name}' seems to list classes, but is not read; write '{where / 'classes.txt'}'")
    (where / "classes.txt").write_text("sky\nroad\ncar")
    assert load_data(where).info.classes == ("sky", "road", "car")


@pytest.mark.parametrize("place", ["images", "masks", "images/train", "masks/val"])
def test_lists_in_inner_folders_are_refused(tmp_path: Path, place: str) -> None:
    where = folder(tmp_path / "set")
    for split in ("train", "val"):
        for half, name in (("images", split), ("masks", f"{split}annot")):
            (where / half).mkdir(exist_ok=True)
            (where / name).rename(where / half / split)
    path = where / place / "classes.txt"
    path.write_text("sky\nroad\ncar")
    fails(where, f"'{path}' seems to list classes, but is not read; write '{where / 'classes.txt'}', each line as NAME")
    path.rename(where / "classes.txt")
    assert load_data(where).info.classes == ("sky", "road", "car")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_coloured_masks(tmp_path: Path, mode: str) -> None:
    where = folder(tmp_path / "set")
    labels = {}
    for path in where.glob("*annot/*.png"):
        labels[path] = np.asarray(Image.open(path))
        picture = Image.fromarray(COLOURS[labels[path]]).convert("RGB" if mode == "P" else mode)
        if mode == "P":  # its numbers are others than the labels
            picture = Image.fromarray(2 - labels[path])
            picture.putpalette(COLOURS[::-1].flatten().tolist())
        picture.save(path)
    (where / "classes.txt").write_text("128 0 0 car\n0 128 0 void\n0 0 0 background")
    data = load_data(where)
    assert data.info.classes == ("car", "background")
    wanted = [np.array([1, 0, 255])[labels[where / "valannot" / f"{index}.png"]].tolist() for index in (0, 1)]
    assert [mask.tolist() for _, masks in data.val_batches(1) for mask in masks] == wanted
    path = where / "valannot" / "1.png"
    Image.fromarray(np.full((12, 16, 3), (0, 128, 1), np.uint8)).save(path)
    fails(
        where, f"the mask '{path}' has the colour 0 128 1, which the list of classes does not have; add the line '0 1"
    )


def test_coloured_masks_without_a_list(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    colours = np.zeros((12, 16, 3), np.uint8)
    colours[0, 0] = 128, 0, 0
    Image.fromarray(colours).save(where / "trainannot" / "0.png")
    fails(where, "0.png' is of mode RGB; a mask holds one label per pixel, as grey values (R = G = B) or palette")
    fails(where, "for colours, give 'classes.txt' a line 'R G B NAME' for each, as '128 0 0 car'")


@pytest.mark.parametrize(
    "text", ["1;road\n2;car", "2. b\n1. a\n0. c", "road 2\ncar 1\nbg 0", "road: 7\ncar: 1", "0.0 a\n7.0 b"]
)
def test_labels_in_another_form_are_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"holds a number, as in '.*', but not as LABEL NAME; write '\d+ NAME' if"):
        read(tmp_path, text)


def test_numbers_in_names(tmp_path: Path) -> None:
    for text in ("stage 0\nstage 1", "3-wheeler\ncar", "car 7"):
        assert [*read(tmp_path, text).names.values()] == text.split("\n")
    assert read(tmp_path, "0 stage 1\n1 stage 2").names == {0: "stage 1", 1: "stage 2"}


def test_a_name_belongs_to_one_label(tmp_path: Path) -> None:
    for text in ("car\nroad\ncar", "0 car\n1 road\n2 car"):
        with pytest.raises(DataError, match="gives the labels 0 and 2 one name, 'car'; give each its own"):
            read(tmp_path, text)
    assert read(tmp_path, "void\nroad\nvoid").names == {0: "void", 1: "road", 2: "void"}
