"""Executors run tasks inside a host process. Importing this room imports no heavy library."""
