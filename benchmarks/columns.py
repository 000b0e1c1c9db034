"""Rows and columns of result tables. A column knows what to write into a row."""

from __future__ import annotations

import statistics
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from benchmarks.results import Measured, Record, Results
from topolearn.errors import TopolearnError
from topolearn.report.tables import NumberText, Table
from topolearn.studies.comparison import clock


@dataclass(frozen=True)
class Row:
    """A row: a recipe, or a variant of one.

    Attributes:
        recipe: Its name in the results files.
        variant: Its name in the results files: what differs from the recipe as ``KEY=VALUE``, sorted by key, with
            spaces between.
        texts: Heading -> text of the cell: the words of a :class:`Words` column, or words instead of a figure.
    """

    recipe: str
    variant: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column(ABC):
    """A column with a heading."""

    heading: str

    @abstractmethod
    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        """Return the text for a row; None for an empty cell. ``seeds`` are the usual seeds of the table."""


@dataclass(frozen=True)
class Words(Column):
    """A column of words that the rows give."""

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        return row.texts.get(self.heading)


@dataclass(frozen=True)
class Link(Column):
    """A column of recipe names that link to their files.

    Attributes:
        folder: Path from the page to the recipes: ``models/`` for a page beside that folder.
    """

    heading: str = "recipe"
    folder: str = ""

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str:
        return f"[{row.recipe}]({self.folder}{row.recipe}.yaml)"


@dataclass(frozen=True)
class Paper(Column):
    """A column of shares that a paper reports, in per cent, with the digits of the results file."""

    metric: str = "accuracy"

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        found = results.paper(row.recipe, row.variant, self.metric)
        if found is None:
            return None
        return NumberText(
            " ± ".join(str(Decimal(found[key]).scaleb(2)) for key in ("value", "deviation") if found[key])
        )


@dataclass(frozen=True)
class Figure(Column):
    """A column of figures from the results.

    Attributes:
        key: Its column in the results files.
        variant: The variant to use in every row; empty for the row's own.
    """

    key: str
    variant: str = field(default="", kw_only=True)

    def measured(self, row: Row, results: Results) -> Measured:
        """Return what was measured for the row."""
        return results.of(row.recipe, self.variant or row.variant)


@dataclass(frozen=True)
class Metric(Figure):
    """A column of mean ± sample standard deviation over seeds; a cell names its seeds if they are not the table's.

    Attributes:
        digits: After the point.
        scale: What the figure is multiplied by.
        missing: Text if nothing is known; None for a dash.
    """

    digits: int = field(default=4, kw_only=True)
    scale: float = field(default=1, kw_only=True)
    missing: str | None = field(default=None, kw_only=True)

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        measured = self.measured(row, results)
        mean, deviation = measured.mean(self.key), measured.deviation(self.key)
        if mean is None:
            return None if self.missing is None else NumberText(self.missing)
        spread = None if deviation is None else self.scale * deviation
        text = _spread(self.scale * mean, spread, f".{self.digits}f")
        return NumberText(text + _other_seeds(measured.seeds(self.key), seeds))


def share(heading: str, key: str = "accuracy", *, variant: str = "", missing: str | None = None) -> Metric:
    """A share, in per cent with two digits."""
    return Metric(heading, key, digits=2, scale=100, variant=variant, missing=missing)


@dataclass(frozen=True)
class Difference(Figure):
    """A column of differences to another row, taken seed by seed: mean ± sample standard deviation.

    Attributes:
        to: The other row's recipe.
        to_variant: The other row's variant.
        digits: After the point.
        scale: What the figure is multiplied by.
    """

    to: str
    to_variant: str = field(default="", kw_only=True)
    digits: int = field(default=4, kw_only=True)
    scale: float = field(default=1, kw_only=True)

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        own = self.measured(row, results).by_seed(self.key)
        other = results.of(self.to, self.to_variant).by_seed(self.key)
        pairs = sorted(own.keys() & other.keys())
        if not pairs or (row.recipe, self.variant or row.variant) == (self.to, self.to_variant):
            return None
        differences = [self.scale * (own[seed] - other[seed]) for seed in pairs]
        spread = statistics.stdev(differences) if len(pairs) > 1 else None
        text = _spread(statistics.mean(differences), spread, f".{self.digits}f", sign="+")
        return NumberText(text + _other_seeds(tuple(pairs), seeds))


whole, one, two = "{:,.0f}".format, "{:,.1f}".format, "{:,.2f}".format
"""Format a number with no, one or two digits after the point."""


def few(value: float) -> str:
    """Format a number with one digit after the point, or none if it is whole."""
    return one(value).removesuffix(".0")


@dataclass(frozen=True)
class Mean(Figure):
    """A column of means over seeds.

    Attributes:
        write: Formats the mean.
        unit: What the mean is divided by.
    """

    write: Callable[[float], str]
    unit: float = field(default=1, kw_only=True)

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        mean = self.measured(row, results).mean(self.key)
        return None if mean is None else NumberText(self.write(mean / self.unit))


@dataclass(frozen=True)
class Change(Figure):
    """A column of sizes, searched graph → learned graph, as means over seeds.

    Attributes:
        before: Formats the size of the searched graph.
        after: Formats the size of the learned graph.
        unit: What both are divided by.
    """

    before: Callable[[float], str]
    after: Callable[[float], str]
    unit: float = field(default=1, kw_only=True)

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        measured = self.measured(row, results)
        searched, learned = measured.mean(f"{self.key}_searched"), measured.mean(f"{self.key}_learned")
        if searched is None or learned is None:
            return None
        return NumberText(f"{self.before(searched / self.unit)} → {self.after(learned / self.unit)}")


@dataclass(frozen=True)
class Training(Column):
    """A column that says how long a run trained, and on which machine."""

    def cell(self, row: Row, results: Results, seeds: tuple[int, ...]) -> str | None:
        measured = results.of(row.recipe, row.variant)
        seconds = measured.mean("seconds")
        return None if seconds is None else ", ".join([clock(seconds), *measured.texts("machine")])


@dataclass(frozen=True)
class ResultTable:
    """A table of figures from the results files.

    Attributes:
        name: The name in the mark above the table in a page.
        columns: The columns, from left to right.
        rows: The rows, from top to bottom.
        seeds: The usual seeds. Cells with other seeds name them.
        transposed: Whether to write columns as rows and rows as columns.
        note: Text below the table. ``{machine}`` becomes machine and versions of the rows.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    transposed: bool = False
    note: str = ""

    def markdown(self, results: Results) -> str:
        """Return the table and its note as Markdown.

        Raises:
            TopolearnError: The rows have different versions of the same data.
        """
        self._check_data(results)
        headings = tuple(column.heading for column in self.columns)
        cells = [tuple(self._cell(row, column, results) for column in self.columns) for row in self.rows]
        if self.transposed:
            headings, *cells = zip(headings, *cells, strict=True)
        note = self.note.replace("{machine}", "; ".join(self._machines(results)))
        lines = textwrap.fill(note, 120, break_long_words=False, break_on_hyphens=False)
        return Table(headings, tuple(cells), note=lines or None).markdown()

    def _cell(self, row: Row, column: Column, results: Results) -> str | None:
        if column.heading in row.texts and not isinstance(column, Words):
            return NumberText(row.texts[column.heading])
        return column.cell(row, results, self.seeds)

    def _records(self, results: Results) -> Iterator[Record]:
        return (record for row in self.rows for record in results.of(row.recipe, row.variant).records)

    def _check_data(self, results: Results) -> None:
        hashes: dict[str, str] = {}
        for record in self._records(results):
            data, found = record.get("data", ""), record.get("data_hash", "")
            if found and hashes.setdefault(data, found) != found:
                raise TopolearnError(
                    f"table '{self.name}' has '{data}' with the hashes {hashes[data]} and {found}; run the older rows"
                    " again, so that all have the same data"
                )

    def _machines(self, results: Results) -> list[str]:
        told = (
            f"{each['machine']}; torch {each['torch']}, Python {each['python']}"
            for each in self._records(results)
            if each.get("machine") and each.get("torch") and each.get("python")
        )
        return list(dict.fromkeys(told))


@dataclass(frozen=True)
class PairsTable:
    """A table of pairs of recipes that are compared seed by seed: the mean and the range of the differences.

    Attributes:
        name: The name in the mark above the table in a page.
        key: The figure to compare: its column in the results files. A smaller one is better.
        pairs: Recipes, and the recipes that they are compared with.
        folder: Path from the page to the recipes.
    """

    name: str
    key: str
    pairs: tuple[tuple[str, str], ...]
    folder: str = ""

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown; a pair without a common seed has dashes."""
        rows = []
        for pair in self.pairs:
            own, other = (results.of(recipe).by_seed(self.key) for recipe in pair)
            differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
            links = (f"[{recipe}]({self.folder}{recipe}.yaml)" for recipe in pair)
            cells: list[NumberText | None] = [None] * 4
            if differences:
                figures = statistics.mean(differences), min(differences), max(differences)
                better = f"{sum(each < 0 for each in differences)} of {len(differences)}"
                cells = [*(NumberText(f"{each:+.4f}") for each in figures), NumberText(better)]
            rows.append((*links, *cells))
        headings = ("recipe", "minus", "mean", "smallest", "largest", "better in seeds")
        return Table(headings, tuple(rows)).markdown()


def _spread(mean: float, deviation: float | None, spec: str, sign: str = "") -> str:
    """Format mean ± deviation."""
    return f"{mean:{sign}{spec}}" + ("" if deviation is None else f" ± {deviation:{spec}}")


def _other_seeds(seeds: tuple[int, ...], usual: tuple[int, ...]) -> str:
    """Return the seeds of a figure in brackets; empty if they are the usual ones."""
    if seeds == usual:
        return ""
    return f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
