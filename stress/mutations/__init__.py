"""Damaged records, and how pipelines react to them."""
