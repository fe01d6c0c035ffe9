"""Backbones that the host does not have."""
