"""A result writer without a process of its own."""

from pathlib import Path

from mloc.services.results.orders import Order, Reply
from mloc.services.results.writer import carry_out


class InlineWriter:
    """Carries orders out at once, in this process."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def ask(self, order: Order) -> Reply:
        return carry_out(self._root, order)

    async def close(self) -> None:
        return None
