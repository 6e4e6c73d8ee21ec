"""Copies of published results in object storage, brought there by a projection with a cursor of its own."""
