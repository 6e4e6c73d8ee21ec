"""Telling people's programs of the ends of tasks over HTTP: results that are posted, webhooks that are called."""
