"""The result writer: a child process of the aggregator that does all work on result files, so that neither a slow disk nor a long merge
holds up publication. It ends with its parent, by the end of its stdin.

    python -m mloc.services.results.writer RESULTS_DIR
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from mloc.services.results.merging import Merge, merge
from mloc.services.results.orders import LENGTH_BYTES, Failed, Order, Reply, decode_order, message
from mloc.services.results.publishing import Publish, publish
from mloc.services.results.trees import WriteTrees, write_trees


def main(root: Path, orders: BinaryIO, replies: BinaryIO) -> None:
    """Carry out orders until there are no more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when it ends
        signal.signal(number, signal.SIG_IGN)
    while body := _next(orders):
        try:
            replies.write(message(carry_out(root, decode_order(body))))
            replies.flush()
        except BrokenPipeError:  # the parent was killed meanwhile; its successor asks again
            os._exit(0)


def carry_out(root: Path, order: Order) -> Reply:
    """Never raises for what a disk or a result can cause."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        match order:
            case Publish():
                return publish(root, order)
            case Merge():
                return merge(root, order)
            case WriteTrees():
                return write_trees(root, order)
    except OSError as error:
        return Failed(f"{error.filename or root}: {error.strerror or error}")
    except msgspec.MsgspecError as error:
        return Failed(f"a shard's result cannot be read: {error}")


def _next(orders: BinaryIO) -> bytes:
    """The next message's body; empty at the end."""
    length = orders.read(LENGTH_BYTES)
    return orders.read(int.from_bytes(length, "big")) if len(length) == LENGTH_BYTES else b""


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
