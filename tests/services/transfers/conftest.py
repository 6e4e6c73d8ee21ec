"""What tests of transfers share."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.services.transfers.file_server import FileServer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FileServer]:
    made = FileServer()
    await made.start()
    yield made
    await made.close()
