"""TOML files read into typed models, strictly, with all problems at once."""
