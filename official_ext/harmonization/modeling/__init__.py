"""Backbones that Model Garden does not have."""
