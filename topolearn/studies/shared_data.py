"""Data that are read once for the checks of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topolearn.data.for_graph import read_data
from topolearn.recipes import Recipe
from topolearn.samples import Data


class SharedData:
    """Reads the data of requests; requests for the same data share them.

    Args:
        root: Folder in which data sets are looked for first.
    """

    def __init__(self, root: str | Path | None) -> None:
        self.root = root
        self._loaded: dict[tuple[Any, ...], Data] = {}

    def read_for(self, recipe: Recipe) -> Recipe:
        """Return the same request with its data loaded, if it names them."""
        if not recipe.names_data or not isinstance(recipe.chosen_data, str | Path):
            return recipe
        graph, options = recipe.graph, recipe.training
        sizes = tuple(graph.input_size(name) for name in graph.inputs)
        files = (options.crop, options.scale, options.skip_bad)
        amounts = (options.train_images, options.steps_per_epoch)
        key = (recipe.chosen_data, graph.task, sizes, options.augment, options.workers, amounts, files)
        if key not in self._loaded:
            self._loaded[key] = read_data(graph, recipe.chosen_data, self.root, options)
        return recipe.changed(data=self._loaded[key])
