"""Adapters: networks of any framework behind one interface."""
