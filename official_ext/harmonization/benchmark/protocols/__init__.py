"""One module per protocol: its flags, columns, ranking and report text."""
