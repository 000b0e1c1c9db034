"""Draws graphs, matrices, curves and examples. It knows graphs and numbers, but not runs."""

from topolearn.drawing.canvas import check_path
from topolearn.drawing.curve import CurvePanel, Line, Mark, draw_curves
from topolearn.drawing.matrix import adjacency, adjacency_svg
from topolearn.drawing.palette import MAX_COLOURS, VOID, Colours, class_colours
from topolearn.drawing.picture import Placed, draw, place, svg
from topolearn.drawing.rows import draw_rows

__all__ = [
    "MAX_COLOURS",
    "VOID",
    "Colours",
    "CurvePanel",
    "Line",
    "Mark",
    "Placed",
    "adjacency",
    "adjacency_svg",
    "check_path",
    "class_colours",
    "draw",
    "draw_curves",
    "draw_rows",
    "place",
    "svg",
]
