"""Bundles: one folder that is enough to predict."""
