"""The Textual console: any moment of the cluster's history on a terminal."""
