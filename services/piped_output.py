"""Standard output that another program reads, which may have seen enough before the end: `mloc doctor --json | head`."""

import os
import select
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from mloc.services.exit_codes import CLEAN

Given = ParamSpec("Given")


def ends_with_its_reader(main: Callable[Given, int]) -> Callable[Given, int]:
    """A command's entry point that ends in good order when nobody reads its output any more. What is written is written when it returns:
    at the interpreter's exit nobody could catch the failure."""

    @wraps(main)
    def run(*args: Given.args, **named: Given.kwargs) -> int:
        try:
            try:
                return main(*args, **named)
            finally:
                _flush()
        except BrokenPipeError:
            if not _is_unread():
                raise  # it was another pipe
            end_output()
            return CLEAN

    return run


def end_output() -> None:
    """What is still to be written goes nowhere: writing it at exit would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _flush() -> None:
    if sys.stdout is None:  # closed by who started the command
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        return  # such as a full disk: the interpreter says so when it exits, if the command did not


def _is_unread() -> bool:
    asking = select.poll()
    asking.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told unasked
    return bool(asking.poll(0))
