"""Model Garden tasks."""
