"""Speed and memory, compared with Model Garden and the released package."""
