"""Studies of how training changes maps and decisions."""
