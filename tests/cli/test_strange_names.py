"""Names from outside: bytes that are not UTF-8, escapes that a terminal obeys, and paths that lead elsewhere."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from topolearn.errors import DataError, Location, printable, utf8
from topolearn.files import file_name
from topolearn.report.tables import Table
from topolearn.runs.config import read_config

Run = Callable[..., tuple[int, str, str]]

ESCAPES = "\x1b[31mred\x1b]0;title\x07"
SHOWN = "[31mred]0;title"
LATIN = os.fsdecode(b"caf\xe9")
"""A name in latin-1, as Python has it where file names are UTF-8."""
GRAPH = """
topolearn: 1
name: "{name}"
inputs: {{image: [3, 8, 8]}}
nodes:
  a[1..2]: {{op: conv_bn_relu, out_channels: 2}}
  b: {{op: relu}}
  head: {{op: classifier, classes: 2}}
edges:
  - {{from: image, to: "a[1..2]"}}
  - {{from: "a[1..2]", to: b, learnable: true}}
  - {{from: b, to: head}}
outputs: [head]
"""
FIT = ("--device", "cpu", "--epochs", "2", "-q")


def graph_file(folder: Path, name: str = "tiny") -> str:
    path = folder / "net.yaml"
    path.write_text(GRAPH.format(name=name), encoding="utf-8")
    return str(path)


def class_folders(folder: Path, *classes: str) -> str:
    """Six images of each class, whose names end in a byte that is not UTF-8."""
    numbers = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(6):
            image = io.BytesIO()
            Image.fromarray(numbers.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(image, "PNG")
            (folder / name / f"{number}{LATIN[-1]}.png").write_bytes(image.getvalue())
    return str(folder)


def test_bytes_that_are_not_utf8_go_through_a_whole_run(run: Run, tmp_path: Path) -> None:
    data, out = class_folders(tmp_path / LATIN, "tea", LATIN), tmp_path / f"run-{LATIN}"
    fit = ("fit", graph_file(tmp_path), "--data", data, "--out", str(out), *FIT)
    status, said, err = run(*fit)
    assert (status, err.count("\n")) == (0, 0), err
    assert f"{tmp_path}/run-caf\\xe9/model.onnx: " in said
    assert read_config(out / "config.yaml")["classes"] == ("caf\\xe9", "tea")
    assert run(*fit, "--resume")[0] == 0
    assert run("show", str(out))[0] == 0
    for network in (out, out / "model.onnx"):
        status, said, err = run("predict", str(network), f"{data}/{LATIN}", "-o", str(tmp_path / LATIN), "--device=cpu")
        assert (status, err) == (0, "")
        assert f"{tmp_path}/caf\\xe9/caf\\xe9/0\\xe9.png: " in said
        text = (tmp_path / LATIN / "predictions.csv").read_text(encoding="utf-8")
        assert {row["class"] for row in csv.DictReader(io.StringIO(text))} == {"caf\\xe9", "tea"}


def test_a_name_of_a_graph_moves_no_cursor(run: Run, tmp_path: Path) -> None:
    net = graph_file(tmp_path, r"\e[31mred\e]0;title\a")
    status, said, _ = run("show", net)
    assert (status, said.splitlines()[0]) == (0, f"{SHOWN}: classification")
    for options in ((), ("--matrix",)):
        picture = tmp_path / "net.svg"
        assert run("show", net, "-o", str(picture), *options) == (0, "", f"wrote {picture}\n")
        assert f"<!-- {SHOWN} -->" in picture.read_text(encoding="utf-8")
        ElementTree.parse(picture)  # which control characters would make no XML
    status, said, err = run("fit", net, "--data", f"none-{ESCAPES}")
    assert (status, said) == (2, "")
    assert err.startswith(f"error: there is no data set 'none-{SHOWN}'")
    assert err.rstrip("\n").isprintable()
    missing = tmp_path / f"{ESCAPES}.yaml"
    assert run("validate", str(missing))[2] == f"error: {tmp_path}/{SHOWN}.yaml: no such file; check the path\n"


def test_a_name_of_a_graph_is_no_formula(run: Run, tmp_path: Path) -> None:
    status, _, err = run("show", graph_file(tmp_path, "$x_$ and $"), "-o", str(tmp_path / "net.svg"))
    assert (status, err) == (0, f"wrote {tmp_path / 'net.svg'}\n")


@pytest.mark.parametrize("name", ["../../up", "/tmp/there", ".hidden", "..", "a/b", r"zero\0"])
def test_a_name_of_a_graph_stays_in_the_folder_of_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = tmp_path / "some" / "where"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    net, data = graph_file(home, name), class_folders(home / "data", "a", "b")
    assert run("fit", net, "--data", data, *FIT, "--no-export")[0] == 0
    (folder,) = home.glob("runs/*")
    assert (folder / "weights.safetensors").is_file()
    assert folder.name[0] != "."
    assert {path.name for path in tmp_path.iterdir()} == {"some"}


def test_a_name_of_a_file_is_one_name() -> None:
    assert file_name("resnet38-cifar100-maskconnect") == "resnet38-cifar100-maskconnect"
    assert file_name("fan_in=2,lr=0.1") == "fan_in=2,lr=0.1"
    assert file_name("été 1") == "été_1"
    for name in ("", ".", "..", "/", LATIN, "a\x00b", "../x", "\\..\\x"):
        made = file_name(name)
        assert made
        assert not {*made} & {*"/\\\x00\udce9"}
        assert made[0] != "."


def test_errors_tables_and_text_are_safe_to_print() -> None:
    error = DataError(f"a{ESCAPES}\u202eb\n\nc", Location(f"{LATIN}{ESCAPES}", 1))
    assert str(error) == f"caf\\xe9{SHOWN}:1: a{SHOWN}b c"
    table = Table((ESCAPES, "n"), ((ESCAPES, 1),), title=ESCAPES)
    assert "\x1b" not in table.plain()
    assert "\x1b" not in table.markdown()
    assert printable("日本\tß\x9b", kept="\t") == "日本\tß"
    assert utf8("\ud800\udcff") == r"\ud800\xff"


def test_line_breaks_and_escapes_in_names_of_classes_and_images(run: Run, tmp_path: Path) -> None:
    """Each is one folder or file, and one line."""
    data, out = tmp_path / "data", tmp_path / "run"
    odd = f"two\nlines {ESCAPES}"
    class_folders(data, "two", odd)
    picture = data / "two" / f"a\n{ESCAPES}.png"
    min((data / "two").iterdir()).rename(picture)
    status, said, err = run("fit", graph_file(tmp_path), "--data", str(data), "--out", str(out), *FIT)
    assert (status, err) == (0, "")
    assert read_config(out / "config.yaml")["classes"] == ("two", odd)
    for network in (out, out / "model.onnx"):
        status, said, err = run("predict", str(network), str(picture), "--device=cpu")
        assert (status, err) == (0, "")
        first, last = said.splitlines()
        assert first.startswith(f"{data}/two/a{SHOWN}.png: ")
        assert f"twolines {SHOWN} " in first
        assert (last, said.replace("\n", "").isprintable()) == ("classification, 1 image", True)
    for command in (
        ("prune", str(out), "--device=cpu"),
        ("fit", graph_file(tmp_path), "--data", str(data), "--out", str(out), *FIT, "--resume"),
    ):
        status, said, err = run(*command)
        assert (status, err) == (0, "")
        assert said.replace("\n", "").isprintable()
