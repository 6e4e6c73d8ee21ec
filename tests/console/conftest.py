"""What the tests of the console share: a history that grows when the test says so."""

from __future__ import annotations

import pytest

from tests.console.fake_source import FakeSource
from tests.console.person import a_history


@pytest.fixture
def source() -> FakeSource:
    return FakeSource(a_history())
