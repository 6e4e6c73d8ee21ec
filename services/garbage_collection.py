"""The cyclic garbage collector of a process that holds a large state: what is loaded is never looked at again, and new looks are rare.

Events and tasks are Structs that the collector need not track, but their dicts and lists are; with Python's defaults it would spend more
time than the fold itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 50_000  # before a look at the young ones
YOUNG_LOOKS = 20
MIDDLE_LOOKS = 100


def collect_seldom() -> None:
    """For the whole life of a service."""
    gc.set_threshold(NEW_OBJECTS, YOUNG_LOOKS, MIDDLE_LOOKS)


@contextmanager
def loading() -> Iterator[None]:
    """No collection while a state is built; what is there at the end is taken for permanent."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
