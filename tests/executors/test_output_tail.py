"""What processes print while they start is passed on, and says why they did not."""

import subprocess
import sys

import pytest
from driven_host import wait_until

from mloc.executors.inference.output_tail import OutputTail

LINES = """
(EngineCore pid=7) ERROR 11-21 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB
(EngineCore pid=7) ERROR 11-21 [core.py:1] RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_last_error_with_a_reason_is_the_cause_and_all_of_it_was_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    tail = OutputTail()
    with tail.catching():
        child = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stderr.write({LINES!r}); print('told')"])
    child.wait()
    wait_until(lambda: "told" in "".join(tail.lines))
    assert tail.cause() == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    printed = capfd.readouterr().err
    assert "Tried to allocate" in printed


def test_without_an_error_there_is_no_cause() -> None:
    assert OutputTail().cause() == ""
