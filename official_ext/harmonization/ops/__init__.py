"""Differentiable pieces without configuration."""
