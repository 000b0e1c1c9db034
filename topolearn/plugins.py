"""Load ops, learners and passes of other packages, through the entry point group ``topolearn.plugins``.

An entry point names a module, or a function without arguments. Importing the module or calling the function
registers things. Only installed packages are loaded; a graph file cannot name code.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from topolearn.errors import TopolearnError

GROUP = "topolearn.plugins"


@cache
def load_plugins() -> tuple[str, ...]:
    """Load every installed plug-in once, and return their names.

    Raises:
        TopolearnError: A plug-in cannot be loaded; the message has its name and the reason.
    """
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    for point in found:
        _load(point)
    return tuple(point.name for point in found)


def _load(point: EntryPoint) -> None:
    try:
        plugin = point.load()
        if callable(plugin):
            plugin()
    except Exception as error:  # a plug-in may raise anything
        raise TopolearnError(
            f"plug-in '{point.name}' ({point.value}) cannot be loaded: {type(error).__name__}: {error}; fix or"
            " uninstall it"
        ) from error
