"""Fixtures shared by tests, performance/, studies/ and stress/."""
