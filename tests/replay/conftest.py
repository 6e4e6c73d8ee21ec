"""What the tests of `mloc-replay` share: a history in a real log, which the settings lead to."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.histories import History


@pytest.fixture
def history(made: History, valkey_url: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """The history that the test's file made."""
    with redis.Redis.from_url(valkey_url) as client:
        for entry in made.entries:
            client.xadd(f"{{{namespace}}}:events", {"type": entry.type, "data": entry.payload}, id=entry.id)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    monkeypatch.setenv("MLOC_NAMESPACE", namespace)
    monkeypatch.setenv("ORCHESTRATOR_STATE_DIR", str(tmp_path / "state"))
    return made
