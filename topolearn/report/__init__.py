"""Tables and pictures of graphs and runs."""

from topolearn.report.examples import draw_rows
from topolearn.report.learned import Learned, read_learned
from topolearn.report.matrix import adjacency
from topolearn.report.palette import class_colours
from topolearn.report.picture import draw
from topolearn.report.summary import facts, headline, node_table
from topolearn.report.tables import Change, Figure, Table, compare

__all__ = [
    "Change",
    "Figure",
    "Learned",
    "Table",
    "adjacency",
    "class_colours",
    "compare",
    "draw",
    "draw_rows",
    "facts",
    "headline",
    "node_table",
    "read_learned",
]
