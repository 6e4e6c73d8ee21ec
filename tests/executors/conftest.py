from collections.abc import Callable, Iterator

import pytest
from driven_host import DrivenHost


@pytest.fixture
def host() -> Iterator[Callable[..., DrivenHost]]:
    """Starts hosts; ends them after the test."""
    started: list[DrivenHost] = []

    def start(**options: bool) -> DrivenHost:
        started.append(DrivenHost(**options))
        return started[-1]

    yield start
    for one in started:
        one.close()
