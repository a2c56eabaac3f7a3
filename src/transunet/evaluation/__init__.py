"""Metrics with a stated policy, and reports. Imports neither models nor training."""
