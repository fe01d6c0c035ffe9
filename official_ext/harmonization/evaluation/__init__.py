"""Alignment metrics, their scores and panels of maps."""
