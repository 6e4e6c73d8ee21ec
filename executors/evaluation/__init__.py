"""Judging a model: scores of its answers, the tasks of an evaluation harness, and gates that hold a pipeline back."""
