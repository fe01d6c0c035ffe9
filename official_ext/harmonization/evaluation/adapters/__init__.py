"""Moved to `benchmark.adapters`."""
