"""The one sequence that runs a scenario, and the verdict on its record."""
