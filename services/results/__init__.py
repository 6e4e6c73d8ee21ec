"""The result tree: published results with their manifests, logs and artifacts. Only the aggregator writes it."""
