"""Metrics: projections of the log for Prometheus, `metrics.json` and `events.log`."""
