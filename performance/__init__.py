"""Speed and memory, against the plain step and the released package."""
