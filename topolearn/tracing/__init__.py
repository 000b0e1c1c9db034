"""Reads what a network does, and makes modules of its parts."""

from topolearn.tracing.builders import register_source

__all__ = ["register_source"]
