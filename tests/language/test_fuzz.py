"""Whatever is fed to the reader, it reads it or refuses it with its own error, in bounded time and memory."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzzed(seconds: float, seed: int) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(FUZZ), str(seconds), str(seed)], capture_output=True, text=True, timeout=seconds + 90, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    broken = told["broken"]
    assert broken is None, f"{broken['why']}\nby: {base64.b64decode(broken['text'])!r}"
    return told


def test_mutated_files_are_read_or_refused() -> None:
    assert fuzzed(6, 1)["read"] > 100


@pytest.mark.deep
@pytest.mark.parametrize("seed", [11, 12])
def test_many_mutated_files_are_read_or_refused(seed: int) -> None:
    assert fuzzed(25, seed)["read"] > 500
