"""One self-contained HTML page of plain values: tables, curves, graphs that can be explored, and pictures."""

from topolearn.page.charts import Curve, curves, movements
from topolearn.page.document import MAX_BYTES, Page, check_ending
from topolearn.page.graph_view import graph_view

__all__ = ["MAX_BYTES", "Curve", "Page", "check_ending", "curves", "graph_view", "movements"]
