"""``topolearn …``: the commands, a thin layer over the API."""

from topolearn.cli.app import main

__all__ = ["main"]
