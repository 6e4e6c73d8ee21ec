"""Weights and tokenizers: where they lie, how they are loaded, and tiny ones made from nothing."""
