"""What tests of the worker share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from far_world import FarWorld, far_world

from tests.services.transfers.file_server import FileServer


@pytest_asyncio.fixture
async def far(tmp_path: Path, server: FileServer) -> AsyncIterator[FarWorld]:
    world = await far_world(tmp_path, server)
    yield world
    await world.close()
    assert world.transfers is not None
    await world.transfers.close()
