"""Reports of the human-alignment benchmark."""
