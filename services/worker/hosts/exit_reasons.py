"""Why a host process ended, in words for the person whose task it ran."""

from __future__ import annotations

import signal

from mloc.services.worker.hosts.host_link import HostExit

_MEANING = {
    "SIGKILL": "killed from outside; when nobody did that, the kernel did because memory ran out: ask for more memory or smaller batches",
    "SIGSEGV": "a library crashed (invalid memory access)",
    "SIGBUS": "a library crashed (bus error; a full /dev/shm does this too)",
    "SIGABRT": "a library gave up (abort)",
    "SIGILL": "a library used an instruction that this processor does not have",
    "SIGFPE": "a library crashed (arithmetic error)",
    "SIGTERM": "asked from outside to end",
}


def explain_exit(exit: HostExit, tail: str) -> str:
    """One sentence, and the last lines that the process printed."""
    if exit.signal:
        name = _signal_name(exit.signal)
        said = f"the process that ran it was ended by {name}: {_MEANING.get(name, 'sent from outside')}"
    else:
        said = f"the process that ran it ended by itself with exit code {exit.code}"
    return f"{said}\n{tail}" if tail else said


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
