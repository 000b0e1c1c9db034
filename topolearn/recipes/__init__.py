"""What a run is asked for: recipes, and options of training."""

from topolearn.recipes.recipe import Recipe, load_recipe
from topolearn.recipes.train_options import TrainOptions

__all__ = ["Recipe", "TrainOptions", "load_recipe"]
