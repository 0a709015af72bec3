"""Recipes: tested job files, each with a page and a few rows, to start from.

`tunefleet_core.recipes.filling` writes them; it is apart because it needs what reads job files.
"""

from tunefleet_core.recipes.recipe import JobRecipe, PlannedRows, find_recipe, own_recipes, read_recipe

__all__ = ["JobRecipe", "PlannedRows", "find_recipe", "own_recipes", "read_recipe"]
