"""The fixtures of `small_data`, for every test here."""

from small_data import decathlon, oblique, rng, save, shared

__all__ = ["decathlon", "oblique", "rng", "save", "shared"]
