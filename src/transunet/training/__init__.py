"""Recipes, losses, the loop and its checkpoints."""
