"""Configurations and registered experiments."""
