"""How a service process ends: cleanly on a signal, with a sentence and a code where it cannot run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from mloc.services.exit_codes import CLEAN, MISCONFIGURED, UNAVAILABLE

DEADLINE_SEC = 30
SERVICES = ("scheduler", "aggregator", "metrics")


def start(folder: Path, service: str, url: str, namespace: str = "mloc") -> subprocess.Popen[str]:
    environ = {
        **os.environ, "REDIS_URL": url, "MLOC_NAMESPACE": namespace, "ORCHESTRATOR_STATE_DIR": str(folder / "state"), "LOG_FORMAT": "json",
        "RESULTS_DIR": str(folder / "results"),
    }  # fmt: skip
    command = (sys.executable, "-m", "mloc.services.command_line", service)
    return subprocess.Popen(command, env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and all that it said."""
    try:
        out, err = child.communicate(timeout=DEADLINE_SEC)
    finally:
        child.kill()
    return child.returncode, out + err


def until_it_leads(url: str, namespace: str, services: tuple[str, ...]) -> None:
    client = redis.Redis.from_url(url, decode_responses=True)
    deadline = time.monotonic() + DEADLINE_SEC
    while not all(client.hget(f"{{{namespace}}}:leader:{service}", "epoch") for service in services):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_services_stop_cleanly_at_sigterm(tmp_path: Path, valkey_url: str, namespace: str) -> None:
    children = [start(tmp_path, service, valkey_url, namespace) for service in SERVICES]
    try:
        until_it_leads(valkey_url, namespace, SERVICES)
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
    for child in children:
        code, said = ended(child)
        assert code == CLEAN, said
        assert "Traceback" not in said
    # and each gave its lease back, so that a successor need not wait
    client = redis.Redis.from_url(valkey_url, decode_responses=True)
    now_sec, _ = client.time()
    for service in SERVICES:
        assert int(client.hget(f"{{{namespace}}}:leader:{service}", "expires") or 0) <= now_sec * 1000 + 1000


def test_services_without_a_server_say_so_and_end_with_a_code(tmp_path: Path) -> None:
    children = [start(tmp_path, service, f"unix://{tmp_path}/nothing") for service in SERVICES]
    for child in children:
        code, said = ended(child)
        assert code == UNAVAILABLE, said
        assert "nothing answers at REDIS_URL" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("service", ["scheduler", "aggregator"])
def test_a_service_that_meets_an_event_of_a_newer_program_asks_for_an_upgrade(
    tmp_path: Path, valkey_url: str, namespace: str, service: str
) -> None:
    client = redis.Redis.from_url(valkey_url)
    client.xadd(f"{{{namespace}}}:events", {"type": "TaskSubmitted@99", "data": b'{"type":"TaskSubmitted@99"}'})
    code, said = ended(start(tmp_path, service, valkey_url, namespace))
    assert code == MISCONFIGURED, said
    assert "upgrade MLOC" in said
    assert "Traceback" not in said
