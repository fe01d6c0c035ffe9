"""Kills, damaged records and long runs."""
