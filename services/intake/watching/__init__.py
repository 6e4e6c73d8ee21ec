"""`mloc-intake watch DIR`: task files are submitted as they appear in a folder, each once."""
