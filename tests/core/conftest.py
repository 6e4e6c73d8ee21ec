"""What the tests of the fold and the decisions share."""

import pytest

from tests.core.history import History


@pytest.fixture
def history() -> History:
    return History()
