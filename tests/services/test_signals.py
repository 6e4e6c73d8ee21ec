"""The first signal asks, the second ends; real processes, real signals."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from mloc.services.signals import stop_on_signals

async def main():
    stop = stop_on_signals(lambda number: print("stopping", number.name, flush=True))
    print("ready", flush=True)
    await stop.wait()
    if {stuck}:
        await asyncio.Event().wait()
    print("stopped", flush=True)

asyncio.run(main())
"""


def started(stuck: bool) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", PROGRAM.format(stuck=stuck)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_process_end_cleanly(number: signal.Signals) -> None:
    with started(stuck=False) as child:
        child.send_signal(number)
        assert child.communicate(timeout=20)[0] == f"stopping {number.name}\nstopped\n"
        assert child.returncode == 0


def test_the_second_signal_ends_a_process_that_is_still_stopping() -> None:
    with started(stuck=True) as child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        assert child.stdout.readline() == "stopping SIGTERM\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) == 128 + signal.SIGINT
