"""The HTTP API of intake: one file a group of routes, and what they share."""
