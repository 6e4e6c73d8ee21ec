"""The task language: from YAML text to validated tasks, with errors that name path, line and column."""
