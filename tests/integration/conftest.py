"""Services that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service_stack import Stack
from tests.log_server import LogServer


@pytest.fixture(scope="module")
def stack(valkey_server: LogServer) -> Iterator[Stack]:
    one = Stack(valkey_server.url)
    one.start("scheduler", "aggregator", "worker", "intake-api")
    try:
        one.until(lambda: one.http("GET", "/readyz")[0] == 200)
        one.until(lambda: one.http("GET", "/workers")[1]["total"])
        yield one
    finally:
        one.close()
