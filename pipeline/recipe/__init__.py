"""Recipes: YAML files that say what to compress, how, for which devices and within which budgets."""
