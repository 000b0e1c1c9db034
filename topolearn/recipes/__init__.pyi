from .recipe import Recipe as Recipe
from .recipe_file import RecipeFile as RecipeFile
from .recipe_file import load_recipe as load_recipe
from .train_options import TrainOptions as TrainOptions
