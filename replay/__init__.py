"""Rebuild, verify and inspect state from the log alone."""
