"""Lines of libraries that every task would have in its log, and that nobody can do anything about. Each is named; everything else is said."""

from __future__ import annotations

import logging
import warnings

_WARNINGS = ("TRL currently supports vLLM versions",)  # said five times at import; trainings do not generate with vLLM


def silence_known_noise() -> None:
    """For this process, before the libraries are imported."""
    for start in _WARNINGS:
        warnings.filterwarnings("ignore", message=start, category=UserWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns at every import about a kernel that only 4-bit weights on CPU use
    logging.getLogger("vllm.triton_utils.importing").addFilter(_is_not_of_triton)


def _is_not_of_triton(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Triton is installed, but doesn't include CPU backend")
