"""The neural harmonizer: training networks to look where people look."""
