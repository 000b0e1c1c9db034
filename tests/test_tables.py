"""The tables of the pages are what the results say: reading runs, keeping results, making tables, checking them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import topolearn
from benchmarks import results, tables
from benchmarks.columns import (
    Change,
    Column,
    Difference,
    Link,
    Mean,
    Metric,
    Paper,
    ResultTable,
    Row,
    Training,
    Words,
    few,
    share,
    whole,
)
from benchmarks.families import family_of, lifted, smallest_of_torchvision
from benchmarks.peers_table import PeersTable
from benchmarks.results import FIRST, Record, Results, extend_file, extended, read_file, read_run, split, written
from benchmarks.tables import TABLES, main, rewritten
from tests.lifting.timm_names import TIMM
from tests.training.runs import GRAPH
from topolearn.errors import TopolearnError
from topolearn.format import library
from topolearn.studies.compare import compare
from topolearn.studies.comparison import RunSummary

RECIPE = """
topolearn: 1
name: learned
graph: tiny.yaml
learner: maskconnect
data: digits
epochs: 2
batch_size: 20
training: {train_images: 60, augment: false}
"""


def record(recipe: str, seeds: str = "0", variant: str = "", **figures: object) -> Record:
    return {"recipe": recipe, "variant": variant, "seeds": seeds, **{key: str(value) for key, value in figures.items()}}


def rows_of(table: ResultTable, *records: Record, papers: Sequence[Record] = ()) -> list[list[str]]:
    """The cells of a table, without headings."""
    lines = table.markdown(Results(records, papers)).splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def cell(column: Column, *records: Record, seeds: Sequence[int] = (0, 1)) -> str:
    """What a column says of the recipe 'a'."""
    return rows_of(ResultTable("toy", (column,), (Row("a"),), tuple(seeds)), *records)[0][0]


# -- results files -------------------------------------------------------------------------------


def test_a_results_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    new = [
        record("b", "1", loss=0.1 + 0.2, date="2026-01-02"),
        record("b", "0", loss=2.0),
        record("a", "0 1 2", "fan_in=2", accuracy=0.5, accuracy_deviation=0.01, machine="one, two"),
    ]
    path = tmp_path / "new" / "toy.csv"
    extend_file(path, new)
    heading = path.read_text(encoding="utf-8").splitlines()[0]
    assert heading == "recipe,variant,seeds,accuracy,accuracy_deviation,loss,machine,date"
    back = read_file(path)
    assert [(each["recipe"], each["seeds"]) for each in back] == [("a", "0 1 2"), ("b", "0"), ("b", "1")]
    assert Results(back).of("b").by_seed("loss") == {0: 2.0, 1: 0.1 + 0.2}
    assert Results(back).of("a", "fan_in=2").texts("machine") == ["one, two"]
    before = path.read_bytes()
    assert written(back) == before
    extend_file(path, new[::-1])
    assert path.read_bytes() == before


def test_new_runs_are_added_and_the_same_ones_replaced() -> None:
    old = [record("a", "0", loss=1), record("a", "1", loss=2), record("b", "0 1 2", loss=3), record("c", "0 1", loss=4)]
    new = [record("a", "1", loss=5), record("a", "2", loss=6), record("c", "0", loss=7)]
    found = {(each["recipe"], each["seeds"]): each["loss"] for each in extended(old, new)}
    assert found == {("a", "0"): "1", ("a", "1"): "5", ("a", "2"): "6", ("b", "0 1 2"): "3", ("c", "0"): "7"}


def test_a_row_without_a_seed_has_figures_that_no_seed_decides() -> None:
    step = record("a", "", step_ratio=1.25)
    runs = [record("a", str(seed), bits=value) for seed, value in enumerate((1.5, 2.5))]
    assert cell(Mean("step", "step_ratio", "{:.2f}".format), step, *runs) == "1.25"
    assert cell(Metric("bits", "bits"), step, *runs) == "2.0000 ± 0.7071"
    assert step in extended([step], runs)


def test_runs_and_summaries_have_the_same_figures() -> None:
    runs = Results([record("a", str(seed), loss=value) for seed, value in enumerate((1.0, 2.0, 4.0))]).of("a")
    assert runs.mean("loss") == pytest.approx(7 / 3)
    assert runs.deviation("loss") == pytest.approx(1.5275, abs=1e-4)
    summary = Results([record("a", "0 1 2", loss=2.5, loss_deviation=0.5)]).of("a")
    assert (summary.mean("loss"), summary.deviation("loss"), summary.seeds("loss")) == (2.5, 0.5, (0, 1, 2))
    assert summary.by_seed("loss") == {}
    assert Results([]).of("a").mean("loss") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe,seeds\na,0\n", "has no column 'variant'"),
        ("recipe,variant,seeds,loss\na,,0\n", "row 2 has 3 cells under 4 headings"),
        ("recipe,variant,seeds\na,,zero\n", "results of a: the seeds are 'zero'"),
        ("recipe,variant,seeds\na,,0 1\na,,1\n", "results have a seed of 'a' twice"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "toy.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TopolearnError, match=re.escape(message)):
        Results.read(tmp_path)


def test_a_run_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        extend_file(tmp_path / f"{name}.csv", [record("a", "0", "fan_in=1", loss=1)])
    with pytest.raises(TopolearnError, match="seed of 'a fan_in=1' twice"):
        Results.read(tmp_path)


def test_a_figure_that_is_no_number_is_named() -> None:
    with pytest.raises(TopolearnError, match="results of a: 'loss' is 'much', not a number"):
        cell(Metric("loss", "loss"), record("a", loss="much"))


# -- columns -------------------------------------------------------------------------------------


def test_a_metric_is_mean_and_deviation() -> None:
    runs = [record("a", str(seed), accuracy=value, bits=value) for seed, value in enumerate((0.5, 0.52))]
    assert cell(share("accuracy, %"), *runs) == "51.00 ± 1.41"
    assert cell(Metric("bits per byte", "bits"), *runs) == "0.5100 ± 0.0141"
    assert cell(share("accuracy, %"), runs[0]) == "50.00 (seed 0)"
    assert cell(share("accuracy, %"), *runs, seeds=(0, 1, 2)) == "51.00 ± 1.41 (seeds 0, 1)"
    assert cell(share("accuracy, %")) == "–"
    assert cell(share("accuracy, %", missing="not run yet")) == "not run yet"
    assert cell(share("accuracy, %", variant="k=2"), record("a", "0 1", "k=2", accuracy=0.7)) == "70.00"


def test_a_paired_difference_is_over_equal_seeds() -> None:
    chain = [record("chain", str(seed), bits=value) for seed, value in enumerate((2.0, 3.0, 9.0))]
    own = [record("a", str(seed), bits=value) for seed, value in enumerate((1.9, 2.7))]
    column = Difference("to the chain", "bits", "chain")
    assert cell(column, *chain, *own) == "-0.2000 ± 0.1414"
    assert cell(column, *chain, *own, seeds=(0, 1, 2)) == "-0.2000 ± 0.1414 (seeds 0, 1)"
    assert cell(column, *chain, own[0]) == "-0.1000 (seed 0)"
    assert cell(column, *chain) == "–"
    assert cell(column, record("chain", "0 1", bits=2), *own) == "–", "a summary does not tell the seeds apart"
    assert cell(Difference("to itself", "bits", "a"), *own) == "–"
    percent = Difference("points", "bits", "chain", digits=2, scale=100)
    assert cell(percent, *chain, record("a", "0", bits=2.5), record("a", "1", bits=3.25)) == "+37.50 ± 17.68"
    variant = Difference("to K = 2", "bits", "a", to_variant="k=2")
    assert cell(variant, *own, record("a", "1", "k=2", bits=2.0)) == "+0.7000 (seed 1)"


def test_sizes_and_times_are_means() -> None:
    sizes = [
        record("a", str(seed), edges_searched=86, edges_learned=edges, seconds=edges, machine="EPYC")
        for seed, edges in enumerate((47, 48))
    ]
    assert cell(Change("edges", "edges", whole, few), *sizes) == "86 → 47.5"
    assert cell(Mean("edges", "edges_learned", whole, unit=0.01), *sizes) == "4,750"
    assert cell(Mean("edges", "edges_learned", few), sizes[0]) == "47"
    assert cell(Mean("edges", "edges_learned", few)) == "–"
    assert cell(Training("training"), sizes[0]) == "0:47, EPYC"
    assert cell(Training("training")) == "–"


def test_words_papers_links_and_notes() -> None:
    table = ResultTable(
        "toy",
        (Link(folder="models/"), Words("wiring"), Paper("paper, %"), share("ours, %", missing="not run yet")),
        (Row("a", texts={"wiring": "chain"}), Row("b", texts={"ours, %": "as `a`"})),
        note="On {machine}.",
    )
    papers = [
        {**record("a"), "metric": "accuracy", "value": "0.7040", "deviation": "0.0110"},
        {**record("b"), "metric": "accuracy", "value": "0.778", "deviation": ""},
    ]
    run = record("a", "0 1 2", accuracy=0.5, machine="EPYC", torch="2", python="3")
    assert table.markdown(Results([run], papers)).splitlines() == [
        "| recipe | wiring | paper, % | ours, % |",
        "| --- | --- | ---: | ---: |",
        "| [a](models/a.yaml) | chain | 70.40 ± 1.10 | 50.00 |",
        "| [b](models/b.yaml) | – | 77.8 | as `a` |",
        "",
        "On EPYC; torch 2, Python 3.",
    ]


def test_a_table_lies_on_its_side() -> None:
    table = ResultTable(
        "toy",
        (Words("K"), share("ours, %")),
        tuple(Row("a", f"k={k}", {"K": str(k)}) for k in (1, 2)),
        transposed=True,
    )
    assert table.markdown(Results([record("a", "0 1 2", "k=2", accuracy=0.5)])).splitlines() == [
        "| K | 1 | 2 |",
        "| --- | --- | ---: |",
        "| ours, % | – | 50.00 |",
    ]


def test_a_table_holds_figures_of_the_same_data() -> None:
    table = ResultTable("toy", (Metric("bits", "bits"),), (Row("a"), Row("b"), Row("c")))
    runs = [record("a", data="text", data_hash="f0", bits=1), record("b", data="digits", data_hash="0a", bits=2)]
    assert rows_of(table, *runs, record("c", data="text", data_hash="f0", bits=3))[2] == ["3.0000 (seed 0)"]
    with pytest.raises(TopolearnError, match="table 'toy' has 'text' with the hashes f0 and f1"):
        table.markdown(Results([*runs, record("c", data="text", data_hash="f1", bits=3)]))


# -- pages ---------------------------------------------------------------------------------------

TOY = (ResultTable("toy", (Words("what"), Mean("loss", "loss", whole)), (Row("a", texts={"what": "it"}),)),)
PAGE = """Text.

- A point:

  <!-- table: toy -->
  | what | loss |
  | --- | ---: |
  | it | 3 |
  <!-- end of table -->

More | text.
"""


def test_only_what_stands_between_the_marks_is_rewritten() -> None:
    known = Results([record("a", loss=3)])
    assert rewritten(PAGE, known, TOY) == (PAGE, [])
    other = Results([record("a", loss=4)])
    assert rewritten(PAGE, other, TOY) == (PAGE.replace("| 3 |", "| 4 |"), ["toy"])
    empty = re.sub(r"  \|.*\n", "", PAGE)
    assert rewritten(empty, known, TOY) == (PAGE, ["toy"])


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PAGE.replace("toy", "toys"), "there is no table 'toys'"),
        (PAGE.replace("end of table", "end"), "does not end"),
        (PAGE.replace("  <!-- end of table -->\n", "") + PAGE, "table 'toy' does not end"),
    ],
)
def test_marks_that_cannot_be_used_are_refused(page: str, message: str) -> None:
    with pytest.raises(TopolearnError, match=message):
        rewritten(page, Results([record("a", loss=3)]), TOY)


def test_the_check_finds_a_changed_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    readme = (library.folder("models") / "README.md").read_text(encoding="utf-8")
    page = tmp_path / "models" / "README.md"
    page.write_text(readme.replace("| 40.45 ± 1.63 |", "| 40.54 ± 1.63 |"), encoding="utf-8")
    (tmp_path / "README.md").write_text("No table.\n", encoding="utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as failed:
        main(["--check"])
    assert failed.value.code == (
        "models/README.md: table 'small' is not what results/ and graphs/ say; run 'python -m benchmarks.tables'"
    )
    assert "40.54" in page.read_text(encoding="utf-8")
    main([])
    assert capsys.readouterr().out == "models/README.md: small\n"
    assert page.read_text(encoding="utf-8") == readme
    main(["--check"])


def test_the_committed_tables_are_what_the_committed_results_say() -> None:
    main(["--check"])


def test_every_table_stands_in_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in tables.pages())
    assert set(re.findall("<!-- table: (.*) -->", text)) == {table.name for table in TABLES}


def test_no_table_of_recipes_is_typed_by_hand() -> None:
    readme = (library.folder("models") / "README.md").read_text(encoding="utf-8")
    assert not re.findall(r"^ *\|.*", tables.MARKED.sub("", readme), re.MULTILINE)


def test_every_shipped_graph_is_in_the_table() -> None:
    (table,) = (table for table in TABLES if isinstance(table, tables.GraphTable))
    assert sorted(table.graphs) == library.names("graphs")


# -- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes, and a comparison of two variants of one with a setting of both."""
    place = tmp_path_factory.mktemp("results")
    (place / "models").mkdir()
    text = GRAPH.format(name="tiny", channels=1, classes=10, learnable="true")
    (place / "models" / "tiny.yaml").write_text(text.replace("[1, 8, 6]", "[1, 8, 8]"))
    (place / "models" / "learned.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        options = {"settings": {"lr": 0.02}, "out": "out", "jobs": 2, "device": "cpu", "quiet": True}
        compare("models/learned.yaml", seeds=(0,), vary={"fan_in": [1, 2]}, **options)  # type: ignore[arg-type]
    return place


def test_finished_runs_become_rows(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    finished, others = split(Path("out"))
    assert (len(finished), others) == (2, [])
    records = [read_run(run, Path("out"), {"lr": "0.02"}, jobs=2) for run in finished]
    assert [each["variant"] for each in records] == ["fan_in=1 lr=0.02", "fan_in=2 lr=0.02"]
    row = records[0]
    run = Path("out/learned/fan_in=1/seed-0")
    summary = RunSummary.read(run, 0)
    assert (row["recipe"], row["seeds"], row["data"]) == ("learned", "0", "digits")
    assert float(row["accuracy"]) == summary.metrics["accuracy"]
    assert float(row["loss"]) > 0
    assert int(row["parameters_searched"]) == summary.searched.parameters
    assert int(row["edges_learned"]) == summary.learned.edges
    assert float(row["seconds"]) == pytest.approx(summary.seconds, abs=0.05)
    assert row["topolearn"] == topolearn.__version__
    assert row["threads"] == "1"
    os.utime(run / "weights.safetensors", (0, 1.0e9))
    assert read_run(run, Path("out"), {"lr": "0.02"})["date"] == "2001-09-09"


def test_a_run_is_what_its_recipe_and_the_settings_say(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    for settings in ({}, {"lr": "0.02", "schedule": "step"}, {"lr": "0.02", "nodes.head.classes": "11"}):
        with pytest.raises(TopolearnError, match=r"fan_in=1/seed-0 is not a run of models/learned.yaml as it is now"):
            read_run(Path("out/learned/fan_in=1/seed-0"), Path("out"), settings)
    for folder in ("models", "out/learned/fan_in=1"):
        with pytest.raises(TopolearnError, match=f"no run in {folder}; name the folder"):
            split(Path(folder))


def test_a_value_that_its_folder_cannot_spell_is_refused(done: Path, tmp_path: Path) -> None:
    run = tmp_path / "learned" / "milestones=_0.5,0.75_" / "seed-0"
    shutil.copytree(done / "out/learned/fan_in=1/seed-0", run)
    with pytest.raises(TopolearnError, match="is not a run of"):
        read_run(run, tmp_path, {"lr": "0.02"})


def test_the_program_adds_what_has_been_finished_since(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    out = tmp_path / "toy.csv"
    call = partial(results.main, ["out", "-o", str(out), "--set", "lr=0.02", "--jobs", "2"])
    weights = Path("out/learned/fan_in=2/seed-0/weights.safetensors")
    kept = weights.rename(tmp_path / "kept")
    call()
    assert capsys.readouterr().out.startswith(f"{out}: 1 runs, made on ")
    assert [each["variant"] for each in read_file(out)] == ["fan_in=1 lr=0.02"]
    kept.rename(weights)
    call()
    assert [each["variant"] for each in read_file(out)] == ["fan_in=1 lr=0.02", "fan_in=2 lr=0.02"]
    before = out.read_bytes()
    call()
    assert out.read_bytes() == before
    with pytest.raises(SystemExit) as failed:
        results.main(["out", "-o", str(out)])
    assert str(failed.value.code).startswith("error: out/learned/fan_in=1/seed-0 is not a run of")


def test_the_families_are_all_that_are_tested() -> None:
    rows = read_file(results.FOLDER / "families.csv")
    pytest.importorskip("timm", reason="timm is not installed")
    assert {row["recipe"] for row in rows} == {*smallest_of_torchvision(), *(f"timm:{name}" for name in TIMM)}
    assert all(row["family"] == family_of(row["recipe"]) for row in rows)
    refused = [row for row in rows if row.get("error")]
    assert len(refused) <= 0.1 * len(TIMM)
    assert all(row["recipe"].startswith("timm:") for row in refused)


def test_a_row_of_a_family_is_what_lifting_gives() -> None:
    (row,) = [row for row in read_file(results.FOLDER / "families.csv") if row["recipe"] == "mobilenet_v3_small"]
    assert {key: value for key, value in row.items() if value or key in FIRST} == lifted("mobilenet_v3_small")


def test_families_of_both_libraries_and_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "families.csv").write_bytes(
        written(
            [
                record("timm:b", family="bb", becomes="parts", branches=2, blocks=1, params=200, params_can_go=100)
                | {"macs": "10", "macs_can_go": "1"},
                record("timm:a", family="aa", error="no"),
                record("c", family="cc", becomes="nodes", branches=0, blocks=0, params=9, params_can_go=0, macs=1)
                | {"macs_can_go": "0"},
            ]
        )
    )
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    found = tables.FamiliesTable("x", "timm").markdown(Results([]))
    assert found.splitlines()[2:] == [
        "| aa | `a` | refused |  |  |  |  |",
        "| bb | `b` | parts | 2 | 1 | 50 | 10 |",
    ]
    assert "| cc | `c` | ordinary nodes | 0 | 0 | 0 | 0 |" in tables.FamiliesTable("x", "torchvision").markdown(
        Results([])
    )


def test_ways_to_shrink_are_compared_with_draws_of_the_same_seed() -> None:
    def record(way: str, seed: int, removed: str, tuned: str) -> Record:
        costs = {
            "time_1": "1.5",
            "time_8": "8",
            "parameters_learned": "1200",
            "macs_learned": "2500000",
        }
        first = {"recipe": "peers-net", "variant": way, "seeds": str(seed)}
        return {**first, "accuracy_as_removed": removed, "accuracy": tuned, **costs}

    records = [
        record("random0", 0, "0.1", "0.5"),
        record("random1", 0, "0.3", "0.6"),
        record("random0", 1, "0.4", "0.9"),
        record("ablation", 0, "0.2", "0.6"),
        record("ablation", 1, "0.5", "0.8"),
        record("learned", 0, "", "0.7"),
        {**record("taylor", 0, "1", "1"), "recipe": "another"},
    ]
    table = PeersTable("t", "peers-net").table(records)
    costs = ("1.50", "8.00", "1,200", "2.50")
    assert table.rows == (
        ("`continuous`, while it learns", "", "", "70.00", "2 of 2", *costs),
        ("`ablation`", "35.00 ± 21.21", "2 of 3", "70.00 ± 14.14", "1 of 3", *costs),
        ("blocks drawn at random", "26.67 ± 15.28", "", "66.67 ± 20.82", "", *costs),
    )
