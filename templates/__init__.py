"""YAML templates and the small data that they use."""
