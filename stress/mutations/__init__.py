"""Damage to records, and what becomes of it."""
