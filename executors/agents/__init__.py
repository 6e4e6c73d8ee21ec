"""Agents: a model that thinks, uses tools, looks at what came back, and answers."""
