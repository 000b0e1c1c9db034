"""One self-contained HTML page of plain values: tables, curves, graphs that can be explored, and pictures."""

from topolearn.page.charts import Curve, curves, dots, movements
from topolearn.page.document import MAX_BYTES, Page, needs_bokeh
from topolearn.page.graph_view import graph_view

__all__ = ["MAX_BYTES", "Curve", "Page", "curves", "dots", "graph_view", "movements", "needs_bokeh"]
