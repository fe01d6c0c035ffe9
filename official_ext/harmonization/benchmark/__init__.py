"""Scores any network against people: protocols, adapters and reports."""
