"""What a person reads of an exception in an executor."""

from __future__ import annotations

import pytest

from mloc.executors.attempt import error_of


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # as safetensors says it
])  # fmt: skip
def test_a_full_disk_is_named_with_what_to_do(error: Exception) -> None:
    said = error_of(error)
    assert said.type == "DiskFull"
    assert "make room in its RESULTS_DIR" in said.message
    assert said.retryable


class OutOfMemoryError(RuntimeError):
    """As torch names it for devices."""


@pytest.mark.parametrize("error", [
    MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
])  # fmt: skip
def test_memory_that_ran_out_is_named_with_what_to_do(error: Exception) -> None:
    said = error_of(error)
    assert (said.type, said.retryable) == ("OutOfMemory", True)
    assert "smaller batches" in said.message
    assert "()" not in said.message
