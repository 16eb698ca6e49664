"""The recipe: what the user asks for, read strictly and explained in full when it cannot be used. No torch."""

from luthier.recipe.load import LoadedRecipe, load_recipe
from luthier.recipe.schema import Dataset, Recipe
from luthier.recipe.write import commented_recipe, dump_recipe

__all__ = ["Dataset", "LoadedRecipe", "Recipe", "commented_recipe", "dump_recipe", "load_recipe"]
