"""How every MLOC process stops: the first SIGTERM or ctrl-C asks for a clean stop, the second ends the process at once."""

import asyncio
import os
import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(
    at_first: Callable[[signal.Signals], None] | None = None, at_second: Callable[[], None] | None = None
) -> asyncio.Event:
    """Call once inside the running loop of the main thread. The event is set by the first signal, after `at_first` was told of it.

    The second signal ends the process with 128 + its number, after `at_second` but without any other cleaning up: what matters must
    survive that anyway.
    """
    stop = asyncio.Event()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            if at_second is not None:
                at_second()
            os._exit(128 + number)
        if at_first is not None:
            at_first(number)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, received, number)
    return stop
