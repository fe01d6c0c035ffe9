"""Tools that make records."""
