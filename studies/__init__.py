"""What training does to maps and decisions, over settings and seeds."""
