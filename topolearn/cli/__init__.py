"""``topolearn …``: the commands, a thin layer over the API."""

from topolearn.cli.app import app, main

__all__ = ["app", "main"]
