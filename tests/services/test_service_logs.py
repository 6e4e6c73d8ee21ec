"""Log lines: their shape, their file, and that no secret is in them. Each test logs in a process of its own, as a service does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mloc.services.service_logs import log_path, scrubbed
from mloc.services.settings import Settings


def logged(tmp_path: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `script` after the logs were configured for the service `probe`."""
    program = f"""
import logging, structlog
from mloc.services.service_logs import configure_logs
from mloc.services.settings import load_settings
configure_logs(load_settings({environ!r}), "probe")
log = structlog.get_logger()
{script}
"""
    return subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)


def test_without_a_terminal_lines_are_json_on_stderr_and_in_the_services_file(tmp_path: Path) -> None:
    ran = logged(tmp_path, "log.info('started', port=8000)")
    assert ran.stdout == ""
    line = json.loads(ran.stderr)
    assert (line["event"], line["port"], line["level"], line["service"]) == ("started", 8000, "info", "probe")
    assert json.loads((tmp_path / "state" / "logs" / "probe.log").read_text()) == line


def test_lines_of_the_standard_library_take_the_same_way(tmp_path: Path) -> None:
    ran = logged(tmp_path, "logging.getLogger('library').warning('slow %s', 'disk')\nlogging.getLogger('library').debug('no')")
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()] == ["slow disk"]


def test_console_lines_are_for_people_and_coloured_when_asked(tmp_path: Path) -> None:
    plain = logged(tmp_path, "log.info('started', port=8000)", LOG_FORMAT="console", LOG_FILE="off").stderr
    assert plain.rstrip().endswith("started port=8000")
    assert "\x1b[" not in plain
    assert "\x1b[" in logged(tmp_path, "log.info('started')", LOG_FORMAT="console", LOG_COLOR="always", LOG_FILE="off").stderr


def test_no_secret_is_logged_wherever_it_stands(tmp_path: Path) -> None:
    script = """
log.info("api token is s3cr3t-token", orchestrator_token="abcd", headers={"Authorization": "Bearer abcdefgh"}, prompt_tokens=12)
logging.getLogger("library").warning("cannot reach redis://user:passw0rd@host:1")
try:
    raise RuntimeError("posted with Bearer abcdefgh to https://me:passw0rd@host")
except RuntimeError:
    log.exception("failed")
"""
    ran = logged(tmp_path, script, ORCHESTRATOR_TOKEN="s3cr3t-token", REDIS_URL="redis://:passw0rd@host")
    everything = ran.stderr + (tmp_path / "state" / "logs" / "probe.log").read_text()
    for secret in ("s3cr3t-token", "abcd", "passw0rd"):
        assert secret not in everything
    first = json.loads(ran.stderr.splitlines()[0])
    assert first["prompt_tokens"] == 12
    assert first["headers"] == {"Authorization": "***"}
    assert "RuntimeError" in ran.stderr


def test_a_log_file_is_turned_over_at_its_size(tmp_path: Path) -> None:
    script = "for n in range(100): log.info('x' * 100, n=n)"
    logged(tmp_path, script, LOG_FILE="logs/{service}.log", LOG_MAX_BYTES="5_000", LOG_BACKUP_COUNT="2")
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["probe.log", "probe.log.1", "probe.log.2"]
    assert all(file.stat().st_size <= 5_000 for file in files)


def test_older_names_of_settings_are_noted(tmp_path: Path) -> None:
    assert "MLOC_PORT is an older name of PORT" in logged(tmp_path, "", MLOC_PORT="9000").stderr


def test_a_log_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = logged(tmp_path, "", LOG_FILE="file/x.log")
    assert "SettingsError: LOG_FILE: file/x.log cannot be written" in ran.stderr


def test_a_state_folder_that_cannot_be_written_is_named_and_not_its_log_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = logged(tmp_path, "", ORCHESTRATOR_STATE_DIR="file/state")
    assert f"SettingsError: the state folder {tmp_path / 'file/state'} cannot be written" in ran.stderr
    assert "set ORCHESTRATOR_STATE_DIR to another folder" in ran.stderr


@pytest.mark.parametrize(
    ("log_file", "expected"),
    [(None, "state/logs/a.log"), ("off", None), ("all.log", "all.log"), ("l-{service}.log", "l-a.log"), ("logs/", "logs/a.log")],
)
def test_the_log_file_setting_may_name_a_file_a_folder_or_none(log_file: str | None, expected: str | None) -> None:
    assert log_path(Settings(log_file=log_file), "a") == (Path(expected) if expected else None)


def test_scrubbing_keeps_the_shape_and_what_is_no_secret() -> None:
    value = {"tokens": 5, "api-key": "k", "list": [{"password": "p"}, "unix:///tmp/s"], "max_token": 3, "secret": None}
    assert scrubbed(value) == {"tokens": 5, "api-key": "***", "list": [{"password": "***"}, "unix:///tmp/s"], "max_token": 3, "secret": None}
