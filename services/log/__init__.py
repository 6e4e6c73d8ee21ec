"""The event log: what it offers, the same on Redis and in memory; and the snapshots that save folding it from its start."""
