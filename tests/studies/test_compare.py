"""Recipes over seeds: what is planned, what is run, what is shown, and what survives a stop or a failure."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from tests.training.runs import GRAPH, ROOT, assert_same, quick_fit
from topolearn import cli
from topolearn.errors import OptionError, TopolearnError
from topolearn.recipes import RecipeFile
from topolearn.studies import Comparison
from topolearn.studies.compare import Variant, _Board, compare, values
from topolearn.studies.comparison import COLUMNS, Failure, GraphSize, Row, RunSummary, clock
from topolearn.studies.processes import Crew, Job, _own_device, run_all

RECIPE = """
topolearn: 1
name: {name}
graph: tiny.yaml
learner: {learner}
data: digits
epochs: {epochs}
batch_size: 20
training: {{train_images: 60, augment: false}}
"""
LEARNED, PREV = "models/learned.yaml", "models/prev.yaml"


def write_recipes(folder: Path) -> None:
    """Two recipes of a graph that takes a step in milliseconds."""
    (folder / "models").mkdir()
    text = GRAPH.format(name="tiny", channels=1, classes=10, learnable="true")
    (folder / "models" / "tiny.yaml").write_text(text.replace("[1, 8, 6]", "[1, 8, 8]"))
    for name, learner in (("learned", "maskconnect"), ("prev", "{name: fixed, rule: prev}")):
        text = RECIPE.format(name=name, learner=learner, epochs=2)
        (folder / "models" / f"{name}.yaml").write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the recipes."""
    write_recipes(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a comparison has been made: two variants of one recipe over two seeds."""
    place = tmp_path_factory.mktemp("done")
    write_recipes(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        compare(LEARNED, seeds=(0, 1), vary={"fan_in": [1, 2]}, out="out", jobs=2, device="cpu", quiet=True)
    return place


@pytest.fixture
def again(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to go on in."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go_on(**options: Any) -> Comparison:
    given = {"seeds": (0, 1), "vary": {"fan_in": [1, 2]}, "out": "out", "device": "cpu", "quiet": True}
    return compare(LEARNED, **given | options)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the runs that would be started; none is."""
    labels: list[str] = []

    def note(tasks: Sequence[Job], crew: Crew, **_: object) -> None:
        labels.extend(task.label for task in tasks)

    monkeypatch.setattr("topolearn.studies.compare.run_all", note)
    return labels


# -- values of a setting ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", ["1"]),
        ("1,2,4..7", ["1", "2", "4", "5", "6", "7"]),
        ("0.01, 0.1", ["0.01", "0.1"]),
        ("maskconnect,continuous", ["maskconnect", "continuous"]),
        ("[0.5, 0.75],[0.3]", ["[0.5, 0.75]", "[0.3]"]),
        ("false,null", ["false", "null"]),
        ('"1..3"', ['"1..3"']),
        ("3..3", ["3"]),
    ],
)
def test_values(text: str, expected: list[str]) -> None:
    assert values(text, "--vary k") == expected


@pytest.mark.parametrize("text", ["", "5..1", "[1", "{a: 1", "1]"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(TopolearnError) as caught:
        values(text, f"--vary k={text}")
    assert f"--vary k={text}" in str(caught.value)


def test_a_range_has_an_end() -> None:
    assert len(values("0..9999", "--seeds")) == 10_000
    with pytest.raises(OptionError, match="--seeds: has more than 10,000 values; give fewer"):
        values("0..10000", "--seeds")
    endless = "9" * 5000
    assert values(f"1..{endless}", "--seeds") == [f'"1..{endless}"']


# -- before anything starts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipes", "options", "text"),
    [
        ([], {}, "there is nothing to compare; name recipes or graphs"),
        ([LEARNED, "models/nothing.yaml"], {}, "models/nothing.yaml: no such file"),
        ([LEARNED, "lerned"], {}, "lerned: there is no graph 'lerned'"),
        ([LEARNED, LEARNED], {}, "would share the folder learned; give recipes different names"),
        (
            [LEARNED],
            {"vary": {"fan_in": [1, 1]}},
            "models/learned.yaml fan_in=1 would share the folder learned/fan_in=1",
        ),
        ([LEARNED], {"vary": {"fan_in": []}}, "the values of 'fan_in' are [], but should be a list, such as [1, 2, 4]"),
        ([LEARNED], {"vary": {"fan_in": "1,2"}}, "the values of 'fan_in' are '1,2', but should be a list"),
        ([LEARNED], {"vary": {"fan_in": [1, 9]}}, "learned fan_in=9: fan_in 9 is larger than every candidate set"),
        (
            [LEARNED],
            {"vary": {"fanin": [1]}},
            "models/learned.yaml fanin=1: --set fanin: unknown setting; did you mean",
        ),
        (
            [PREV, LEARNED],
            {"settings": {"threshold": 0.1}},
            "models/prev.yaml: --set threshold: learner 'fixed' has no such option; it is an option of continuous",
        ),
        (
            [PREV],
            {"vary": {"step": [0.1]}},
            "models/prev.yaml step=0.1: --set step: learner 'fixed' has no such option",
        ),
        (
            [PREV],
            {"vary": {"learner": ["fixd"]}},
            "models/prev.yaml learner=fixd: unknown learner 'fixd'; did you mean",
        ),
        ([LEARNED], {"settings": {"fan_in": 1}, "vary": {"fan_in": [1]}}, "'fan_in' is both set and varied"),
        ([LEARNED], {"settings": {"seed": 1}}, "'seed' cannot be set or varied; give the seeds with 'seeds'"),
        ([LEARNED], {"settings": {"phases.serch": 1}}, "learned: learner 'maskconnect' has no phase 'serch'"),
        ([LEARNED], {"epochs": 1}, "learned: 1 epoch is too few for the phases search, fine_tune"),
        ([PREV], {"settings": {"data": "nowhere"}}, "prev: there is no data set 'nowhere'"),
        ([PREV], {"settings": {"nodes.head.classes": 7}}, "prev: data 'digits' has 10 classes, but output 'head'"),
        ([PREV], {"settings": {"train_images": 9999}}, "prev: 'digits' has 1,437 training images, not 9,999"),
        ([PREV], {"seeds": ()}, "the seeds are [], but should be at least one, each once"),
        ([PREV], {"seeds": (1, 1)}, "the seeds are [1, 1], but should be at least one, each once"),
        ([PREV], {"seeds": (-1,)}, "a seed is -1, but should be a whole number, 0 or more"),
        ([PREV], {"jobs": 0}, "'jobs' is 0, but should be the number of runs at a time, 1 or more"),
        ([PREV], {"device": "cpux"}, "prev: device 'cpux' cannot be used"),
    ],
)
def test_what_is_wrong_stops_all_before_the_start(
    folder: Path, started: list[str], recipes: list[str], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(TopolearnError) as caught:
        compare(recipes, **{"out": "out", "device": "cpu"} | options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not started
    assert not (folder / "out").exists()


def test_every_recipe_with_every_combination_of_values(folder: Path, started: list[str]) -> None:
    vary = {"fan_in": [1, 2], "schedule": ["step", "cosine"]}
    found = compare([LEARNED], vary=vary, seeds=(3, 4), out="out", device="cpu")
    names = [f"learned fan_in={k} schedule={schedule}" for k in (1, 2) for schedule in ("step", "cosine")]
    assert [row.name for row in found.rows] == names
    assert started == [f"{name}, seed {seed}" for seed in (3, 4) for name in names], "all with one seed, then the next"
    assert all(not row.runs for row in found.rows)
    assert found.seeds == (3, 4)


def test_graphs_are_recipes_of_their_defaults(folder: Path, started: list[str]) -> None:
    found = compare("digits", vary={"learner": ["continuous", "fixed"]}, seeds=[0], epochs=2, out="out", device="cpu")
    assert [row.name for row in found.rows] == ["digits-continuous learner=continuous", "digits-fixed learner=fixed"]


def test_an_option_of_some_learners_is_set_for_those(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks: list[Job] = []
    monkeypatch.setattr("topolearn.studies.compare.run_all", lambda given, crew, **_: tasks.extend(given))
    common = {"fan_in": 1, "step": 0.1, "schedule": "step"}
    compare([PREV, LEARNED], settings=common, seeds=[0], out="out", device="cpu")
    vary = {"learner": ["maskconnect", "continuous"]}
    compare(LEARNED, vary=vary, settings={"learner.fan_in": 1}, seeds=[0], out="out", device="cpu")
    given = [[part for part in task.arguments if "=" in part and not part.startswith("out/")] for task in tasks]
    assert given == [
        ["fan_in=1", "schedule=step"],
        ["fan_in=1", "step=0.1", "schedule=step"],
        ["learner.fan_in=1", "learner=maskconnect"],
        ["learner=continuous"],
    ]
    assert capsys.readouterr().err.splitlines() == [
        "prev: without step=0.1, because its learner has no such option",
        "learned learner=continuous: without learner.fan_in=1, because its learner has no such option",
    ]


def test_a_recipe_cannot_choose_a_place_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Job] = []
    monkeypatch.setattr("topolearn.studies.compare.run_all", lambda given, crew, **_: tasks.extend(given))
    for name, place in (("../../up", "_.._up"), ("/etc/x", "_etc_x"), ("...", "_"), ("a b", "a_b")):
        text = (folder / PREV).read_text().replace("name: prev\n", f"name: {json.dumps(name)}\n")
        (folder / "models" / "odd.yaml").write_text(text)
        compare("models/odd.yaml", seeds=[0], out="out", device="cpu")
        arguments = tasks.pop().arguments
        assert arguments[arguments.index("--out") + 1] == f"out/{place}/seed-0"


def test_devices_and_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crews: list[Crew] = []
    monkeypatch.setattr("topolearn.studies.compare.run_all", lambda tasks, crew, **_: crews.append(crew))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for jobs in (None, 2, 3, 99):
        compare([LEARNED, PREV], jobs=jobs, seeds=(0, 1), out="out", device="cpu")
    assert crews == [Crew(("cpu",), 1, 8), Crew(("cpu",), 2, 4), Crew(("cpu",), 3, 2), Crew(("cpu",), 4, 2)]


def test_auto_is_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from topolearn.studies.compare import _crew, _devices

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _devices("auto") == ("cpu",)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert _devices("auto") == ("cuda:0", "cuda:1", "cuda:2")
    assert _devices("cuda:1") == ("cuda:1",)
    assert _crew(_devices("auto"), None, 9).jobs == 3


def test_a_process_sees_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    name, environment = _own_device("cuda:2")
    assert (name, environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    name, environment = _own_device("cuda:1")
    assert (name, environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "7")
    assert _own_device("cuda") == ("cuda", dict(os.environ))
    assert _own_device("cpu")[0] == "cpu"


# -- what is run --------------------------------------------------------------------------------


def test_runs_are_ordinary_runs(again: Path) -> None:
    """The same as one ``fit`` each, to the byte."""
    place = again / "out" / "learned" / "fan_in=1" / "seed-1"
    quick_fit(LEARNED, out=again / "alone", seed=1, fan_in=1)
    assert_same(again / "alone", place)
    assert sorted(path.name for path in (again / "out").iterdir()) == ["compare.csv", "compare.md", "learned"]


def test_the_figures_are_those_of_the_runs(again: Path, started: list[str]) -> None:
    found = go_on()
    assert found.failures == ()
    for row, k in zip(found.rows, (1, 2), strict=True):
        assert row.name == f"learned fan_in={k}"
        assert [run.seed for run in row.runs] == [0, 1]
        for run in row.runs:
            result = topolearn.runs.read_result(run.folder)
            assert run.folder == Path("out") / "learned" / f"fan_in={k}" / f"seed-{run.seed}"
            assert run.metrics == {"accuracy": result.metrics["accuracy"]}
            assert run.searched == GraphSize.of(result.searched)
            assert run.learned == GraphSize.of(result.graph)
            assert run.seconds == sum(record.get("seconds", 0) for record in result.history) > 0
    assert (again / "out" / "compare.md").read_text() == found.table().markdown() + "\n"
    assert (again / "out" / "compare.csv").read_text() == found.csv()


def test_what_is_finished_is_not_run_again(again: Path, started: list[str]) -> None:
    go_on()
    assert started == []
    found = go_on(seeds=(0, 1, 2), vary={"fan_in": [2, 3]})
    assert started == [
        "learned fan_in=3, seed 0",
        "learned fan_in=3, seed 1",
        *(f"learned fan_in={k}, seed 2" for k in (2, 3)),
    ]
    assert [len(row.runs) for row in found.rows] == [2, 0]


def test_finished_runs_of_other_settings_are_not_taken(again: Path, started: list[str]) -> None:
    before = (again / "out" / "compare.md").read_bytes()
    with pytest.raises(TopolearnError) as caught:
        go_on(epochs=3)
    assert str(caught.value) == (
        "learned fan_in=1: the run in out/learned/fan_in=1/seed-0 began with epochs 2, not 3;"
        " resume it with the same settings, or choose another folder"
    )
    assert (again / "out" / "compare.md").read_bytes() == before


def test_a_failed_run_leaves_the_others_alone(
    again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = again / "out" / "learned" / "fan_in=1" / "seed-1"
    (damaged / "weights.safetensors").unlink()
    (damaged / "checkpoint").mkdir()
    (damaged / "checkpoint" / "state.pt").write_bytes(b"\x00")
    shutil.rmtree(again / "out" / "learned" / "fan_in=2" / "seed-1")
    command = f"compare {LEARNED} --vary fan_in=1..2 --seeds 0,1 --out out --device cpu"
    monkeypatch.setattr(sys, "argv", ["topolearn", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "learned fan_in=1, seed 1: failed\n" in said.err
    assert re.search(r"^learned fan_in=2, seed 1: fine_tune 1/1  train_loss ", said.err, re.MULTILINE)
    assert re.search(r"learned fan_in=2, seed 1: accuracy .* of training; 3 of 4 runs are finished\n", said.err)
    *_, last = said.err.splitlines()
    assert last.startswith(
        f"error: learned fan_in=1, seed 1: {damaged.relative_to(again)}/checkpoint/state.pt: damaged"
    )
    rows = said.out.splitlines()
    assert "1 of 2" in rows[1]
    assert "1 of 2" not in rows[2]
    assert rows[-1] == "out: compare.md, compare.csv"
    # Mended, it is the only one that is left.
    shutil.rmtree(damaged / "checkpoint")
    found = go_on(jobs=1)
    assert found.failures == ()
    assert [len(row.runs) for row in found.rows] == [2, 2]


def wait_for(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Wait; the limit only ends a test that would wait for ever."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_an_interrupted_comparison_goes_on(folder: Path) -> None:
    """All runs stop, with a checkpoint where they have begun; resumed, they give what undisturbed ones give."""
    epochs = 60
    options = f"--seeds 0 --epochs {epochs} --out out --jobs 2 --device cpu"
    process = subprocess.Popen(
        [sys.executable, "-m", "topolearn", "compare", LEARNED, PREV, *options.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    place = folder / "out" / "learned" / "seed-0"
    wait_for((place / "checkpoint" / "state.pt").is_file)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "learned, seed 0: interrupted; go on with --resume (out/learned/seed-0)" in said
    assert re.search(r"^interrupted; [01] of 2 runs are finished; give the same command to resume the rest", said, re.M)
    assert not (place / "weights.safetensors").exists()
    found = compare([LEARNED, PREV], seeds=[0], epochs=epochs, out="out", jobs=2, device="cpu", quiet=True)
    assert [len(row.runs) for row in found.rows] == [1, 1]
    quick_fit(LEARNED, out=folder / "alone", epochs=epochs, seed=0)
    assert_same(folder / "alone", place)


def test_a_run_ends_with_the_process_that_started_it(folder: Path) -> None:
    """Also where that was killed, and could not say so."""
    command = f"fit {PREV} --epochs 100000 --out alone --device cpu --no-export"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "topolearn.studies.worker", *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    wait_for((folder / "alone" / "checkpoint" / "state.pt").is_file)
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 130
    assert (folder / "alone" / "checkpoint" / "state.pt").is_file()


def test_why_a_process_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line, or the signal that ended it."""
    ended: list[tuple[str, str | None]] = []

    def run(*arguments: str) -> None:
        tasks = [Job("it", arguments)]
        run_all(
            tasks, Crew(("cpu",), 1, 1), say=lambda _: None, ended=lambda task, why: ended.append((task.label, why))
        )

    run("fit", "nothing")
    (folder / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.syspath_prepend(folder)
    run("fit", "nothing")
    assert [label for label, _ in ended] == ["it", "it"]
    assert str(ended[0][1]).startswith("there is no graph 'nothing'; known: ")
    assert ended[1][1] == "the process was ended by SIGKILL"


# -- what is shown ------------------------------------------------------------------------------


def summary(seed: int, accuracy: float, learned: int = 5, seconds: float = 60) -> RunSummary:
    sizes = GraphSize(1_200_000, 3_000_000, 10, 4), GraphSize(100_000 * learned, 1_000_000, learned, 3)
    return RunSummary(seed, Path(f"seed-{seed}"), {"accuracy": accuracy}, *sizes, seconds)


def test_table_of_several_seeds() -> None:
    runs = summary(0, 0.5), summary(1, 0.54, 6, 120), summary(2, 0.52, 5, 3900)
    rows = Row("a", runs), Row("b", runs[:1]), Row("c", ())
    found = Comparison(rows, (0, 1, 2), Path("out"), (Failure("c", 0, "no luck"),))
    table = found.table()
    assert table.columns == ("recipe", "accuracy, %", *COLUMNS[2:])
    spread = statistics.stdev([50, 54, 52])
    assert table.rows[0] == (
        "a",
        f"52.00 ± {spread:.2f}",
        3,
        "1,200,000 → 533,333",
        "3.00 → 1.00",
        "10 → 5.3",
        "4 → 3.0",
        "22:40",
    )
    assert table.rows[1][1:3] == ("50.00", "1 of 3"), "one value has no deviation"
    assert table.rows[2][1:] == (None, "0 of 3", None, None, None, None, None)
    assert "mean ± sample standard deviation over seeds 0, 1, 2;" in str(table.note)
    assert table.markdown().splitlines()[1].count("---:") == 7
    assert found.table(("recipe", "edges")).columns == ("recipe", "edges")
    assert str(found.failures[0]) == "c, seed 0: no luck"


def test_one_seed_has_no_deviation() -> None:
    found = Comparison((Row("a", (summary(4, 0.5),)),), (4,), Path("out"))
    assert found.table().rows[0][1:3] == ("50.00", 1)
    assert "±" not in found.table().markdown()
    assert str(found.table().note).endswith("after the last epoch, of seed 4.")


def test_bits_per_byte_are_no_per_cent() -> None:
    def text(seed: int, bits: float) -> RunSummary:
        size = GraphSize(100, 1_000_000, 5, 3)
        metrics = {"bits_per_byte": bits, "accuracy": 0.5}
        return RunSummary(seed, Path(f"seed-{seed}"), metrics, size, size, 60)

    table = Comparison((Row("a", (text(0, 2.4), text(1, 2.5))), Row("b", ())), (0, 1), Path("out")).table()
    assert table.columns[:4] == ("recipe", "bits_per_byte", "accuracy, %", "seeds")
    assert table.rows[0][1:3] == ("2.4500 ± 0.0707", "50.00 ± 0.00")
    assert table.is_numeric(1)
    assert table.rows[1][1:3] == (None, None)
    one = Comparison((Row("a", (text(0, 2.41784),)),), (0,), Path("out")).table()
    assert one.rows[0][1] == "2.4178"


def test_the_line_of_a_finished_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    size = GraphSize(100, 1_000_000, 5, 3)
    done = RunSummary(3, Path("x"), {"bits_per_byte": 2.41784, "accuracy": 0.51234}, size, size, 61)
    variant = Variant("a", "digits", (), Path("a"), RecipeFile(graph="digits"))
    board = _Board((variant,), (3,), Path("x"), quiet=False)
    monkeypatch.setattr(RunSummary, "read", lambda folder, seed: done)
    monkeypatch.setattr(Comparison, "save", lambda self: None)
    board.note(variant, 3, None)
    line = "a, seed 3: bits_per_byte 2.4178, accuracy 51.23% after 1:01 of training; 1 of 1 runs are finished\n"
    assert capsys.readouterr().err == line


def test_csv_has_plain_numbers(tmp_path: Path) -> None:
    rows = Row("a, b", (summary(0, 0.5), summary(2, 0.25, 6))), Row("c", ())
    found = Comparison(rows, (0, 1, 2), tmp_path / "out")
    found.save()
    with open(tmp_path / "out" / "compare.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first["recipe"] == "a, b"
    assert [first[f"accuracy_seed_{seed}"] for seed in (0, 1, 2)] == ["0.5", "", "0.25"]
    assert float(first["accuracy_mean"]) == 0.375
    assert float(first["accuracy_std"]) == pytest.approx(0.25 / 2**0.5)
    assert (first["runs"], first["parameters_searched"], first["parameters_learned"]) == ("2", "1200000", "550000")
    assert (first["edges_learned"], first["training_seconds"]) == ("5.5", "60")
    assert (second["recipe"], second["runs"], second["accuracy_mean"], second["macs_searched"]) == ("c", "0", "", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (90_000, "25:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--seeds a", "--seeds a: seeds are whole numbers, such as 0,1,2 or 0..4"),
        ("--seeds -1", "--seeds -1: seeds are whole numbers"),
        ("--vary fan_in", "--vary fan_in: write it as KEY=VALUE"),
        ("--vary fan_in=", "--vary fan_in=: has no values; write them as 1,2,4 or 1..8"),
        ("--set fan_in", "--set fan_in: write it as KEY=VALUE"),
        ("--epochs 1", "learned: 1 epoch is too few"),
    ],
)
def test_bad_arguments(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    text: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["topolearn", "compare", LEARNED, "--out", "out", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith(f"error: {text}")
    assert said.err.count("\n") == 1
    assert not (folder / "out").exists()
