"""Make the tables of README.md, models/README.md and docs/ from ``results/*.csv`` and from the graphs.

    python -m benchmarks.tables [--check]

A page has a table between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. NAME is one of ``TABLES`` below.
``--check`` writes nothing. It fails if a table differs from the results.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.columns import (
    Change,
    Difference,
    Link,
    Mean,
    Metric,
    PairsTable,
    Paper,
    ResultTable,
    Row,
    Training,
    Words,
    few,
    one,
    share,
    two,
    whole,
)
from benchmarks.results import FOLDER, Results, read_file
from topolearn.errors import TopolearnError
from topolearn.files import write_atomically
from topolearn.format import load_graph
from topolearn.options import in_file
from topolearn.recipes.recipe import DEFAULTS, OTHER_DEFAULTS, TEXT_DEFAULTS
from topolearn.recipes.train_options import TrainOptions
from topolearn.report.tables import NumberText, Table

ROOT = Path(__file__).resolve().parent.parent


def pages() -> list[Path]:
    """Return the pages that can have tables."""
    return [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Made(Protocol):
    """A table that can be made from the results."""

    @property
    def name(self) -> str:
        """The name in the mark above the table."""

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown."""


@dataclass(frozen=True)
class GraphTable:
    """A table of shipped graphs, made from the graphs themselves."""

    name: str
    graphs: tuple[str, ...]

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown."""
        rows = []
        for name in self.graphs:
            graph = load_graph(name)
            rows.append((f"`{name}`", len(graph.nodes), sum(edge.learnable for edge in graph.edges), graph.cost.params))
        return Table(("graph", "nodes", "learnable edges", "parameters"), tuple(rows)).markdown()


@dataclass(frozen=True)
class DefaultsTable:
    """The table of default epochs, batch size, learning rate and training options by data set."""

    name: str

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown."""
        named = {f"`{name}`": found for name, found in DEFAULTS.items()}
        rows = [
            (data, found.epochs, found.batch_size, NumberText(f"{found.lr:g}"), _options(found.training))
            for data, found in {**named, "text": TEXT_DEFAULTS, "anything else": OTHER_DEFAULTS}.items()
        ]
        return Table(("data", "epochs", "batch size", "learning rate", "training options"), tuple(rows)).markdown()


def _options(given: Mapping[str, object]) -> str:
    """Return the training options that differ from their defaults, or the optimiser if none does."""
    changed = given or {"optimizer": TrainOptions().optimizer}
    return ", ".join(f"`{name}: {in_file(value)}`" for name, value in changed.items())


@dataclass(frozen=True)
class FamiliesTable:
    """A table of the families of one library: their smallest network, and what can go from it when it is lifted."""

    name: str
    library: str

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown."""
        rows = []
        for row in read_file(FOLDER / "families.csv"):
            library, _, network = row["recipe"].rpartition(":")
            if (library or "torchvision") != self.library:
                continue
            shares = [
                NumberText(f"{100 * int(row[f'{kind}_can_go']) / int(row[kind]):.0f}" if row[kind] else "")
                for kind in ("params", "macs")
            ]
            becomes = {"nodes": "ordinary nodes", "parts": "parts", "": "refused"}[row["becomes"]]
            count = [int(row[kind]) if row[kind] else NumberText("") for kind in ("branches", "blocks")]
            rows.append((row["family"], f"`{network}`", becomes, *count, *shares))
        headings = ("family", "smallest network", "becomes", "branches", "blocks", "parameters, %", "MACs, %")
        return Table(headings, tuple(sorted(rows))).markdown()


# -- the tables ----------------------------------------------------------------------------------


def of_paper(name: str, *recipes: str) -> ResultTable:
    """Return a table of the accuracy that a paper reports for recipes, and of ours."""
    return ResultTable(
        name,
        (Link(), Paper("paper, %"), share("ours, %", missing=NOT_RUN), Training("training of ours")),
        tuple(map(Row, recipes)),
    )


def by_fan_in(name: str, recipe: str, most: int) -> ResultTable:
    """Return a table of the accuracy of a recipe by K, the paper's and ours."""
    return ResultTable(
        name,
        (Words("K"), Paper("paper, %"), share("ours, %")),
        tuple(Row(recipe, f"fan_in={k}", {"K": str(k)}) for k in range(1, most + 1)),
        transposed=True,
    )


def described(heading: str, texts: Mapping[str, str]) -> tuple[Row, ...]:
    """Return a row for each recipe, with words about it under a heading."""
    return tuple(Row(recipe, texts={heading: text}) for recipe, text in texts.items())


def pruned_without_training(recipe: str, *keep: int) -> tuple[Row, ...]:
    """Return rows of a learned recipe that keeps only its strongest edges after training."""
    return tuple(
        Row(recipe, f"pruned keep={k}", {"what a block reads": f"of these the {k} strongest, not trained on"})
        for k in keep
    )


def aggregated(rule: str) -> str:
    """Return the variant of ResNet-20 that aggregates by another rule."""
    return " ".join(f"nodes.block[{blocks}].aggregate={rule}" for blocks in ("1..3", "4..6", "7..9"))


NOT_RUN = "not run yet"
RESNET20, TOPONET6 = "resnet20-cifar100-coarse", "toponet6-sepconv-cifar100-coarse"
GPT = "gpt12x64-bytes"

TABLES: tuple[Made, ...] = (
    DefaultsTable("data-defaults"),
    GraphTable(
        "graphs",
        (
            "digits",
            "gpt12x64-bytes",
            "gpt12x64-bytes-x0",
            "gpt12x64-bytes-sublayers",
            "gpt12x64-bytes-mean",
            "gpt12x64-bytes-random3",
            "gpt14x64-bytes",
            "gpt12x768-bytes",
            "vit12x64-cifar100",
            "resnet20-cifar100",
            "resnet38-cifar100",
            "resnet38-preact-cifar100",
            "resnet74-cifar100",
            "resnet110-cifar100",
            "resnet50-imagenet",
            "resnext20-4x8-cifar100",
            "resnext29-8x8-cifar100",
            "resnext29-64x8-cifar100",
            "resnext50-4x32-imagenet",
            "resnext101-4x32-imagenet",
            "resnext101-4x64-imagenet",
            "toponet6-sepconv-cifar100",
            "toponet6-conv-cifar100",
            "toponet12-sepconv-cifar100",
            "toponet12-sepconv-wide-cifar100",
            "toponet-sepconv-imagenet",
            "fdn-mobilenetv2-voc",
            "fdn-mobilenetv2-camvid",
            "fdn-efficientnetlite0-camvid",
            "fdn-resnet50-voc",
            "fdn-resnet101-voc",
            "sparsemask-mobilenetv2-voc",
            "unet-mobilenetv2-voc",
            "fcn-mobilenetv2-voc",
        ),
    ),
    FamiliesTable("families-torchvision", "torchvision"),
    FamiliesTable("families-timm", "timm"),
    ResultTable(
        "lift",
        (
            Words("network"),
            share("as removed, %", "accuracy_as_removed", missing=""),
            share("accuracy, %"),
            Mean("parameters", "parameters_learned", whole),
            Mean("million MACs", "macs_learned", two, unit=1e6),
        ),
        (
            Row("lift-resnet34", "base", {"network": "as it is, 8 epochs"}),
            Row("lift-resnet34", "whole", {"network": "as it is, 4 epochs more"}),
            Row("lift-resnet34", "learned", {"network": "7 blocks removed while it learns"}),
            Row("lift-resnet34", "chosen", {"network": "the same blocks removed at once"}),
            Row("lift-resnet34", "random", {"network": "7 blocks removed at random"}),
        ),
    ),
    of_paper(
        "resnet-cifar100",
        *(
            f"resnet{depth}-cifar100-{kind}"
            for depth in (38, 74, 110)
            for kind in ("fixed-prev", "fixed-full", "fixed-random", "maskconnect", "frozen")
        ),
    ),
    by_fan_in("resnet38-by-k", "resnet38-cifar100-maskconnect", 17),
    of_paper(
        "resnext-cifar100",
        *(
            f"resnext29-{width}x8-cifar100-{kind}"
            for width in (8, 64)
            for kind in (
                "fixed-full",
                "maskconnect-k1",
                "maskconnect-k4",
                "fixed-random-k4",
                "fixed-random-k1",
                "frozen-k4",
            )
        ),
    ),
    by_fan_in("resnext20-by-k", "resnext20-4x8-cifar100-maskconnect", 8),
    of_paper(
        "resnext-cifar10",
        *(
            f"resnext{size}-cifar10-{kind}"
            for size in ("20-4x8", "29-8x8", "29-64x8")
            for kind in ("fixed-full", "maskconnect-k4")
        ),
    ),
    of_paper(
        "imagenet",
        "resnet50-imagenet-fixed-prev",
        "resnet50-imagenet-maskconnect",
        *(
            f"resnext{size}-imagenet-{kind}"
            for size in ("50-4x32", "101-4x32", "101-4x64")
            for kind in ("fixed-full", "maskconnect")
        ),
    ),
    ResultTable(
        "toponet",
        (Link(), Words("edges"), share("ours, %", missing=NOT_RUN), Training("training of ours")),
        described(
            "edges",
            {
                "toponet6-sepconv-cifar100-continuous": "learned",
                "toponet6-sepconv-cifar100-fixed-full": "complete",
                "toponet6-sepconv-cifar100-fixed-full-plain": "chain",
                "toponet6-sepconv-cifar100-fixed-full-residual": "a shortcut over every 2 nodes",
                "toponet6-sepconv-cifar100-fixed-random": "2 random sources per node",
                "toponet-sepconv-imagenet-continuous": "learned",
                "toponet-sepconv-imagenet-fixed-full": "complete",
            },
        ),
    ),
    ResultTable(
        "depth-text",
        (
            Link(),
            Words("what a block reads"),
            Metric("bits per byte", "bits_per_byte", missing=NOT_RUN),
            Difference("to the chain", "bits_per_byte", to=f"{GPT}-chain"),
            Mean("step", "step_ratio", two),
            Mean("edges", "edges_learned", few),
            Mean("parameters", "parameters_learned", whole),
        ),
        (
            *described(
                "what a block reads",
                {
                    f"{GPT}-chain": "the one before it",
                    f"{GPT}-chain-longer": "the same, as long as the learned ones take",
                    "gpt14x64-bytes-chain": "the same, 14 blocks",
                    f"{GPT}-learned-from-mean": "all before it, at learned weights that start as the mean",
                    f"{GPT}-learned-from-mean-k3": "the 3 strongest of these, trained on",
                    f"{GPT}-learned": "all before it, at learned weights that start as the chain",
                },
            ),
            *pruned_without_training(f"{GPT}-learned", 4, 3, 2),
            *described(
                "what a block reads",
                {
                    f"{GPT}-learned-k4": "the 4 strongest, trained on",
                    f"{GPT}-learned-k3": "the 3 strongest, trained on",
                    f"{GPT}-learned-k2": "the 2 strongest, trained on",
                    f"{GPT}-x0-learned": "the one before it, and the embedding at a learned weight",
                    f"{GPT}-sublayers-learned": "attentions and MLPs apart: all before it, at learned weights",
                    f"{GPT}-random3-learned": "three drawn once, at learned weights",
                    f"{GPT}-mean-full": "the mean of all before it",
                    f"{GPT}-mean-random3": "the mean of three drawn ones",
                    f"{GPT}-mean-maskconnect": "the mean of three that masks choose",
                    f"{GPT}-mean-sparsemask": "the mean of those whose gates open",
                },
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    ResultTable(
        "depth-first",
        (
            Words("every block reads"),
            Metric("bits per byte", "bits_per_byte"),
            Difference("to the chain", "bits_per_byte", to=f"{GPT}-chain"),
            Mean("step", "step_ratio", two),
            Mean("connections", "edges_learned", few),
        ),
        (
            Row(f"{GPT}-chain", texts={"every block reads": "the one before it (the usual chain)"}),
            Row(f"{GPT}-chain-longer", texts={"every block reads": "the same, 1.11 times as many steps"}),
            Row("gpt14x64-bytes-chain", texts={"every block reads": "the same, two blocks more"}),
            Row(f"{GPT}-mean-random3", texts={"every block reads": "the mean of three drawn ones"}),
            Row(f"{GPT}-random3-learned", texts={"every block reads": "three drawn ones, learned, from the mean"}),
            Row(f"{GPT}-mean-full", texts={"every block reads": "the mean of all before it"}),
            Row(f"{GPT}-learned", texts={"every block reads": "all before it, learned, from the chain"}),
            Row(f"{GPT}-learned-k3", texts={"every block reads": "of those from the chain, the three strongest"}),
            Row(f"{GPT}-learned-from-mean", texts={"every block reads": "**all before it, learned, from the mean**"}),
            Row(
                f"{GPT}-learned-from-mean-k3",
                texts={"every block reads": "of those from the mean, the three strongest"},
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    PairsTable(
        "depth-pairs",
        "bits_per_byte",
        (
            (f"{GPT}-learned", f"{GPT}-chain-longer"),
            (f"{GPT}-learned-k3", f"{GPT}-chain-longer"),
            (f"{GPT}-learned-from-mean", f"{GPT}-chain-longer"),
            (f"{GPT}-learned-from-mean", f"{GPT}-mean-full"),
            (f"{GPT}-learned", f"{GPT}-mean-full"),
            (f"{GPT}-learned-k3", f"{GPT}-learned"),
            (f"{GPT}-learned-k3", f"{GPT}-mean-random3"),
            (f"{GPT}-random3-learned", f"{GPT}-learned"),
            (f"{GPT}-random3-learned", f"{GPT}-learned-from-mean"),
        ),
    ),
    ResultTable(
        "depth-images",
        (Link(), Words("labels"), share("ours, %", missing=NOT_RUN), Mean("parameters", "parameters_learned", whole)),
        tuple(
            Row(f"{net}-{data}-{kind}", variant, texts={"labels": labels})
            for net, variant in (("vit12x64", ""), ("resnet38-preact", "compile=true"))
            for data, labels in (("cifar100-coarse", "20 coarse"), ("cifar100", "100"))
            for kind in ("chain", "learned")
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    ResultTable(
        "voc",
        (
            Link(),
            Words("decoder"),
            Paper("paper, mIoU %", "miou"),
            share("ours, mIoU %", "miou", missing=NOT_RUN),
            Training("training of ours"),
        ),
        described(
            "decoder",
            {
                "fcn-mobilenetv2-voc-fixed-full": "none",
                "unet-mobilenetv2-voc-fixed-full": "U-Net",
                "fdn-mobilenetv2-voc-maskconnect": "learned, K = 3",
                "fdn-mobilenetv2-voc-continuous": "learned, L1",
                "fdn-mobilenetv2-voc-fixed-full": "all 90 edges",
                "fdn-mobilenetv2-voc-sparsemask": "learned",
                "sparsemask-mobilenetv2-voc-fixed-full": "the published 15 edges",
            },
        ),
    ),
    ResultTable(
        "small",
        (
            Link(),
            share("`mean`, %"),
            share("`normalised`, %", variant=aggregated("normalised")),
            share("`sum`, %", variant=aggregated("sum")),
        ),
        (
            Row(f"{RESNET20}-fixed-prev", texts={"`sum`, %": "as `mean`"}),
            *(Row(f"{RESNET20}-{kind}") for kind in ("fixed-full", "fixed-random", "frozen", "maskconnect")),
            *(
                Row(f"resnext20-4x8-cifar100-coarse-{kind}")
                for kind in (
                    "fixed-full",
                    "fixed-random-k4",
                    "frozen-k4",
                    "maskconnect-k4",
                    "fixed-random-k1",
                    "maskconnect-k1",
                )
            ),
        ),
    ),
    ResultTable(
        "update",
        (Words("update"), share("ours, %")),
        (
            Row(f"{RESNET20}-frozen", texts={"update": "frozen masks"}),
            *(
                Row(f"{RESNET20}-maskconnect", f"lr_scale={scale} update=literal", {"update": f"literal, {scale} x"})
                for scale in (1, 10, 100)
            ),
            Row(f"{RESNET20}-maskconnect", "step=0.01", {"update": "balanced, 0.01"}),
            Row(f"{RESNET20}-maskconnect", texts={"update": "balanced, 0.03"}),
            Row(f"{RESNET20}-maskconnect", "step=0.1", {"update": "balanced, 0.1"}),
        ),
    ),
    ResultTable(
        "stages",
        (
            Link(),
            Words("wiring"),
            share("accuracy, %"),
            Mean("million MACs", "macs_learned", two, unit=1e6),
            Mean("parameters", "parameters_learned", whole),
            Mean("edges", "edges_learned", few),
        ),
        described(
            "wiring",
            {
                f"{TOPONET6}-continuous": "learned",
                f"{TOPONET6}-continuous-budget": "learned, 70 % of the cost",
                f"{TOPONET6}-fixed-full": "complete",
                f"{TOPONET6}-fixed-full-plain": "chain",
                f"{TOPONET6}-fixed-full-residual": "a shortcut over every 2 nodes",
                f"{TOPONET6}-fixed-full-er": "Erdős–Rényi, p = 0.4",
                f"{TOPONET6}-fixed-full-ws": "Watts–Strogatz, k = 4, p = 0.75",
                f"{TOPONET6}-fixed-full-ba": "Barabási–Albert, m = 2",
                f"{TOPONET6}-fixed-random": "2 random sources per node",
            },
        ),
    ),
    ResultTable(
        "penalty",
        (
            Words("`--vary auto_factor=0,1,3,10`, seed 0"),
            share("accuracy, %"),
            Mean("million MACs", "macs_learned", two, unit=1e6),
            Mean("edges", "edges_learned", few),
        ),
        tuple(
            Row(f"{TOPONET6}-continuous", f"auto_factor={factor}", {"`--vary auto_factor=0,1,3,10`, seed 0": text})
            for factor, text in {
                0: "0",
                1: "1 (the recipe)",
                3: "3",
                10: "10, which the limit of 0.02 makes 4.9",
            }.items()
        ),
        seeds=(0,),
    ),
    ResultTable(
        "camvid",
        (
            Link(),
            Words("decoder"),
            share("mIoU, %", "miou"),
            Mean("decoder edges", "decoder_edges", one),
            Mean("decoder parameters", "decoder_parameters", whole),
            Mean("decoder, million MACs", "decoder_macs", one, unit=1e6),
            Mean("image, ms", "image_ms", one),
        ),
        described(
            "decoder",
            {
                "fcn-mobilenetv2-camvid-fixed-full": "none",
                "unet-mobilenetv2-camvid-fixed-full": "U-Net",
                "fdn-mobilenetv2-camvid-fixed-full": "all 90 edges",
                "fdn-mobilenetv2-camvid-fixed-random": "4 random edges",
                "fdn-mobilenetv2-camvid-sparsemask": "learned by gates",
                "fdn-mobilenetv2-camvid-maskconnect": "learned by masks, K = 3",
                "fdn-mobilenetv2-camvid-continuous": "learned by continuous weights",
            },
        ),
    ),
    ResultTable(
        "digits",
        (
            Link(),
            share("accuracy, %"),
            Change("parameters", "parameters", whole, whole),
            Change("million MACs", "macs", two, two, unit=1e6),
            Change("edges", "edges", whole, one),
            Change("nodes", "nodes", whole, one),
        ),
        tuple(
            Row(f"digits-{kind}")
            for kind in ("continuous", "fixed-full", "fixed-prev", "fixed-random", "maskconnect", "sparsemask")
        ),
        note="Accuracy on the 360 validation digits after the last epoch, mean ± standard deviation over seeds"
        " 0, 1, 2; searched graph → learned graph, means over seeds. One thread per run, on {machine}.",
    ),
)
"""Every table. To add one, declare a :class:`ResultTable` here, put its two marks into a page, and run this program."""


# -- the pages -----------------------------------------------------------------------------------

START, END = "<!-- table: {} -->", "<!-- end of table -->"
MARKED = re.compile(r"^( *)<!-- table: ([^\n]*?) -->\n(.*?)^\1<!-- end of table -->$", re.MULTILINE | re.DOTALL)


def rewritten(page: str, results: Results, tables: Sequence[Made] = TABLES) -> tuple[str, list[str]]:
    """Return a page with its tables rewritten, and the names of those that changed.

    Raises:
        TopolearnError: A table has no end mark, or is not declared.
    """
    known = {table.name: table for table in tables}
    changed: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        indent, name, before = found.groups()
        if name not in known:
            raise TopolearnError(f"there is no table '{name}'; declare it in benchmarks/tables.py")
        if "<!-- table: " in before:
            raise TopolearnError(f"table '{name}' does not end; write '{END}' below it")
        lines = [START.format(name), *known[name].markdown(results).splitlines(), END]
        text = "\n".join(f"{indent}{line}".rstrip() for line in lines)
        if text != found[0]:
            changed.append(name)
        return text

    new = MARKED.sub(replaced, page)
    if new.count("<!-- table: ") > len(MARKED.findall(new)):
        raise TopolearnError(f"its last table does not end; write '{END}' below it")
    return new, changed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    args = parser.parse_args(arguments)
    wrong = []
    try:
        results = Results.read()
        for path in pages():
            name = path.relative_to(ROOT)
            try:
                new, changed = rewritten(path.read_text(encoding="utf-8"), results)
            except TopolearnError as error:
                raise TopolearnError(f"{name}: {error.message}") from None
            if args.check:
                wrong += [
                    f"{name}: table '{table}' is not what results/ and graphs/ say; run 'python -m benchmarks.tables'"
                    for table in changed
                ]
            elif changed:
                write_atomically(path, new.encode())
                print(f"{name}: {', '.join(changed)}")
    except TopolearnError as error:
        sys.exit(f"error: {error}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
