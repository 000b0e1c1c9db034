"""Tables and text that describe graphs and runs."""

from topolearn.report.summary import facts, headline, node_table, resolution, skippable_facts, skippable_table
from topolearn.report.tables import Change, NumberText, Table, compare

__all__ = [
    "Change",
    "NumberText",
    "Table",
    "compare",
    "facts",
    "headline",
    "node_table",
    "resolution",
    "skippable_facts",
    "skippable_table",
]
