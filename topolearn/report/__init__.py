"""Tables and text that describe graphs and runs."""

from topolearn.report.summary import block_facts, block_table, facts, headline, node_table, resolution
from topolearn.report.tables import Change, NumberText, Table, compare

__all__ = [
    "Change",
    "NumberText",
    "Table",
    "block_facts",
    "block_table",
    "compare",
    "facts",
    "headline",
    "node_table",
    "resolution",
]
