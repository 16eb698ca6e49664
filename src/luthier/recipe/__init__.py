"""The recipe: what the user asks for, read strictly and explained in full when it cannot be used. No torch."""

from luthier.recipe.load import LoadedRecipe, load_recipe
from luthier.recipe.schema import Dataset, Recipe, Stage, stage_folder, stage_recipe
from luthier.recipe.write import commented_recipe, dump_recipe

__all__ = [
    "Dataset",
    "LoadedRecipe",
    "Recipe",
    "Stage",
    "commented_recipe",
    "dump_recipe",
    "load_recipe",
    "stage_folder",
    "stage_recipe",
]
