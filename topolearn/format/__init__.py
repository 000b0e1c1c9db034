"""Reads and writes graph files (YAML). Imports no torch."""

from topolearn.format import library
from topolearn.format.graph_file import check_graph, dump_graph, load_graph, loads
from topolearn.format.schema import schema
from topolearn.format.writer import dumps

__all__ = ["check_graph", "dump_graph", "dumps", "library", "load_graph", "loads", "schema"]
