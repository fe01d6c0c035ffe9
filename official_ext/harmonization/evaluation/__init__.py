"""Human-alignment metrics, runs and pictures."""
