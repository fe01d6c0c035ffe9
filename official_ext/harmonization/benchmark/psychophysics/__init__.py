"""Rapid categorization by people and networks: trials, curves and fits."""
