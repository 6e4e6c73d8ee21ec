"""Texts into numbers: vectors, scores, ranks."""
