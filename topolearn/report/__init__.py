"""Tables and texts about graphs and runs."""

from topolearn.report.summary import facts, headline, node_table
from topolearn.report.tables import Change, Figure, Table, compare

__all__ = ["Change", "Figure", "Table", "compare", "facts", "headline", "node_table"]
