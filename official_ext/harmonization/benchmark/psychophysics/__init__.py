"""Decisions of people and networks: trials, curves and fits."""
