"""Tables that can be shown on a terminal, as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from topolearn.errors import printable

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NOTHING = "–"
"""Text of a cell without a value."""


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        columns: The headings.
        rows: One value per column: text, numbers, or None for an empty cell.
        title: Text above the table.
        note: Text below the table, such as how many rows were left out.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} values does not fit {len(self.columns)} columns: {row}")

    def cells(self) -> list[list[str]]:
        """Return the rows as text."""
        return [[cell(value) for value in row] for row in self.rows]

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers or :class:`NumberText`, which are aligned right."""
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(value, (int, float, NumberText)) for value in values)

    def html(self) -> str:
        """Return the table as HTML; whatever the cells hold is text."""

        def row(cells: Sequence[str], tag: str) -> str:
            sides = ("right" if self.is_numeric(i) else "left" for i in range(len(cells)))
            parts = (
                f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'
                for text, side in zip(cells, sides, strict=True)
            )
            return f"<tr>{''.join(parts)}</tr>"

        lines = ["<table>", *([f"<caption>{escape(printable(self.title))}</caption>"] if self.title else [])]
        lines += [f"<thead>{row([cell(heading) for heading in self.columns], 'th')}</thead>"]
        lines += ["<tbody>", *(row(cells, "td") for cells in self.cells()), "</tbody>", "</table>"]
        return "\n".join([*lines, *([f"<p>{escape(printable(self.note))}</p>"] if self.note else [])])

    def plain(self) -> str:
        """Return aligned columns without lines, for pipes and log files."""
        rows = [[cell(heading) for heading in self.columns], *self.cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [printable(self.title)] if self.title else []
        for row in rows:
            parts = (
                text.rjust(width) if self.is_numeric(i) else text.ljust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(parts).rstrip())
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ["---:" if self.is_numeric(i) else "---" for i in range(len(self.columns))]
        rows = [[cell(heading) for heading in self.columns], rule, *self.cells()]
        lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
        opening = [f"**{printable(self.title)}**", ""] if self.title else []
        return "\n".join([*opening, *lines, *(["", self.note] if self.note else [])])

    def rich(self) -> RichTable:
        """Return a table for a terminal."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(printable(self.title or "")),
            title_justify="left",
            caption=Text(self.note or ""),
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for i, heading in enumerate(self.columns):
            table.add_column(Text(cell(heading)), justify="right" if self.is_numeric(i) else "left", overflow="fold")
        for row in self.cells():
            table.add_row(*(Text(text) for text in row))
        return table


class NumberText(str):
    """Text of a number with its unit, aligned right like a number."""

    __slots__ = ()


def cell(value: Any) -> str:
    """Return a value as text: thousands separated, four significant digits, a dash for None."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    return printable(str(value))


SHARES = frozenset({"accuracy", "miou", "f_beta", "ods", "ois"})
"""The tasks' metrics that are shares of 1, shown in per cent. All others, such as your own, are plain numbers."""


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, shown in per cent."""
    return metric in SHARES


def metric_spec(metric: str) -> str:
    """Return the ``format`` specification of a metric: per cent with two decimals, or a number with four."""
    return ".2%" if is_share(metric) else ".4f"


def metric_heading(metric: str) -> str:
    """Return the heading of a metric, with the unit that :func:`metric_number` leaves out."""
    return f"{metric}, %" if is_share(metric) else metric


def metric_number(metric: str, value: float) -> str:
    """Return the value of a metric as text, without its unit, to go under :func:`metric_heading`."""
    return f"{value:{metric_spec(metric)}}".removesuffix("%")


@dataclass(frozen=True)
class Change:
    """A quantity before and after.

    Attributes:
        name: Name of the quantity.
        before: Value before; None if it was not measured.
        after: Value after; None if it was not measured.
        spec: ``format`` specification: ``,`` for counts, ``.2%`` for shares, ``.2f`` …
        unit: Text after the number, such as `` ms``.
        between: Value in between; None if it was not measured.
        quartiles: First and third quartile, before and after; None for exact values.
    """

    name: str
    before: float | None
    after: float | None
    spec: str = ","
    unit: str = ""
    between: float | None = None
    quartiles: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def texts(self) -> tuple[NumberText, NumberText, NumberText]:
        """The values before, in between and after, as text with their unit."""
        ranges = self.quartiles or (None, None)
        return (
            self._text(self.before, ranges[0]),
            self._text(self.between, None),
            self._text(self.after, ranges[1]),
        )

    def _text(self, value: float | None, quartiles: tuple[float, float] | None) -> NumberText:
        if value is None:
            return NumberText("")
        around = "" if quartiles is None else f" ({quartiles[0]:{self.spec}}–{quartiles[1]:{self.spec}})"
        return NumberText(f"{value:{self.spec}}{around}{self.unit}")

    @property
    def change(self) -> NumberText:
        """The change in per cent of the value before, or in percentage points if the quantity is a share.

        Empty if a value is missing, or if the quartiles overlap, because the change may then be chance.
        """
        if self.before is None or self.after is None:
            return NumberText("")
        if self.quartiles is not None and self._overlap(*self.quartiles):
            return NumberText("")
        if self.spec.endswith("%"):
            return NumberText(f"{100 * (self.after - self.before):+.2f} points")
        return NumberText(f"{100 * (self.after / self.before - 1):+.1f}%" if self.before else "")

    @staticmethod
    def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[1] and other[0] <= one[1]


def compare(
    changes: Sequence[Change],
    *,
    title: str | None = None,
    note: str | None = None,
    before: str = "given",
    between: str = "end of search",
    after: str = "final",
) -> Table:
    """Make a table of quantities before and after, one row each, with the change.

    Args:
        changes: The quantities.
        title: Text above the table.
        note: Text below the table.
        before: Heading of the values before.
        between: Heading of the values in between; the column is left out if there are none.
        after: Heading of the values after.
    """
    on_the_way = any(item.between is not None for item in changes)
    rows = []
    for item in changes:
        first, middle, last = item.texts
        rows.append((item.name, first, *([middle] if on_the_way else []), last, item.change))
    headings = ("", before, *([between] if on_the_way else []), after, "change")
    return Table(headings, tuple(rows), title, note)
