"""Every setting of MLOC with its default. This is the only module that reads the environment.

`load_settings()` reads the environment and `.env` in the working folder (the environment wins). `setting_variables` says for each
field what its variable accepts and what it is for.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from mloc.core.decisions.dispatch_policy import DEFAULT as DEFAULT_POLICY
from mloc.services.setting_variables import Variable, variables

DOTENV = ".env"


class SettingsError(Exception):
    """A setting that cannot be used: says which, what it holds and what is accepted. One line a setting."""


class Settings(Struct, frozen=True, kw_only=True):
    """A field's name in capitals is the name of its variable. Paths are as given: relative ones lie in the working folder."""

    # Event log
    redis_url: str | None = None
    mloc_namespace: str = "mloc"
    mloc_durability: str = "always"
    backlog_limit: int = 1_000_000
    min_free_disk: int = 1024**3

    # Folders
    orchestrator_state_dir: str = "./state"
    results_dir: str | None = None
    orchestrator_results_dir: str | None = None
    results_mirror: str | None = None
    allowed_output_roots: tuple[str, ...] = ()
    worker_dir: str | None = None
    state_flush_interval_sec: float = 20.0

    # API
    orchestrator_token: str | None = None
    port: int = 8000
    mloc_host: str | None = None
    allow_anonymous: bool = False
    metrics_require_token: bool = False
    api_read_only: bool = False
    api_rate_limit: float = 0.0
    api_max_requests: int = 1024
    api_body_sec: float = 30.0
    upload_max_bytes: int = 256 * 1024**3
    uploads_per_task: int = 1000
    upload_expire_sec: float = 24 * 3600.0
    orchestrator_base_url: str | None = None
    orchestrator_url: str | None = None

    # Callbacks
    callback_allowed_hosts: tuple[str, ...] = ()
    callback_timeout_sec: float = 30.0
    callback_tries: int = 15
    callback_backlog: int = 100_000

    # Worker
    worker_id: str | None = None
    worker_slots: int = 1
    worker_tags: tuple[str, ...] = ()
    task_topics: tuple[str, ...] = ()
    worker_cost_per_hour: float = 0.0
    worker_env_allow: tuple[str, ...] = ()
    heartbeat_interval_sec: float = 30.0
    heartbeat_ttl_sec: float = 120.0
    stop_grace_sec: float = 10.0
    worker_drain_sec: float = 30.0
    worker_cache_size: int = 20 * 1024**3
    vllm_model: str | None = None
    ppo_model: str | None = None

    # Scheduling
    dispatch_policy: str = DEFAULT_POLICY
    enable_context_reuse: bool = True
    enable_stage_weight_stickiness: bool = True
    enable_task_merge: bool = True
    task_merge_max_batch_size: int = 16
    enable_elastic_scaling: bool = False
    elastic_auto_idle_sec: float = 300.0
    elastic_auto_queue_length: int = 1
    elastic_auto_min_workers: int = 1

    # Logs
    log_level: str = "INFO"
    log_format: str = "auto"
    log_color: str = "auto"
    log_file: str | None = None
    log_max_bytes: int = 5 * 1024**2
    log_backup_count: int = 5

    # Starting
    mloc_node_type: str | None = None

    notes: tuple[str, ...] = ()
    """What to tell once the log is set up: older names in use, names that were set twice."""

    @property
    def state_dir(self) -> Path:
        return Path(self.orchestrator_state_dir)

    @property
    def worker_results_dir(self) -> Path:
        return Path(self.results_dir or "./results_workers")

    @property
    def host_results_dir(self) -> Path:
        """Where the API and the aggregator keep results."""
        return Path(self.orchestrator_results_dir or self.results_dir or "./results_host")

    @property
    def worker_folder(self) -> Path:
        return Path(self.worker_dir) if self.worker_dir else self.state_dir / "worker"


def read_environment(folder: Path | None = None) -> dict[str, str]:
    """The environment over the `.env` of `folder` (the working folder); SettingsError for a line that is no assignment."""
    dotenv = (folder or Path()) / DOTENV
    return {**(_parse_dotenv(dotenv) if dotenv.is_file() else {}), **os.environ}


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of `environ`, by default of `read_environment()`. SettingsError tells all that cannot be used, one line each."""
    found = read_environment() if environ is None else environ
    values: dict[str, Any] = {}
    problems: list[str] = []
    notes: list[str] = []
    for field, variable in variables().items():
        name, text = _lookup(field.upper(), variable, found, notes)
        if not text:  # empty is unset, as compose files and CI systems write it
            continue
        try:
            values[field] = variable.kind.parse(text)
        except ValueError:
            shown = "***" if variable.secret else re.sub(r"(://)[^/]*@", r"\1***@", text)
            problems.append(f"{name}={shown} cannot be used: it takes {variable.kind.accepts}")
    if problems:
        raise SettingsError("\n".join(problems))
    return _consistent(Settings(**values, notes=tuple(notes)))


def api_address(settings: Settings) -> tuple[str, int]:
    """Host and port to listen on; SettingsError where that would open the API to a network without a token."""
    host = settings.mloc_host or ("0.0.0.0" if settings.orchestrator_token else "127.0.0.1")
    if not (settings.orchestrator_token or settings.allow_anonymous or host in ("127.0.0.1", "::1", "localhost")):
        raise SettingsError(
            f"MLOC_HOST={host} would let anyone on the network submit tasks: set ORCHESTRATOR_TOKEN, "
            "or ALLOW_ANONYMOUS=1 if that is what you want"
        )
    return host, settings.port


def allowed_variables(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What `${NAME}` may resolve to in this process: the set ones among WORKER_ENV_ALLOW."""
    return {name: environ[name] for name in settings.worker_env_allow if name in environ}


def _lookup(name: str, variable: Variable, found: Mapping[str, str], notes: list[str]) -> tuple[str, str]:
    """The name that is in use and its text; the present name wins over an older one."""
    present = found.get(name, "").strip()
    chosen = (name, present)
    for older in variable.older:
        text = found.get(older, "").strip()
        if text and chosen[1] and text != chosen[1]:
            notes.append(f"{older} has no effect: {chosen[0]} is set too")
        elif text and not chosen[1]:
            notes.append(f"{older} is an older name of {name}; please use {name}")
            chosen = (older, text)
    return chosen


def _consistent(settings: Settings) -> Settings:
    if settings.heartbeat_ttl_sec <= settings.heartbeat_interval_sec:
        raise SettingsError(
            f"HEARTBEAT_TTL_SEC={settings.heartbeat_ttl_sec:g} cannot be used: it must be longer than "
            f"HEARTBEAT_INTERVAL_SEC={settings.heartbeat_interval_sec:g}, or every worker is lost between two heartbeats"
        )
    return settings


def _parse_dotenv(path: Path) -> dict[str, str]:
    values = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip().removeprefix("export ").lstrip()
        if not text or text.startswith("#"):
            continue
        name, separator, value = text.partition("=")
        if not separator or not name.strip().isidentifier():
            raise SettingsError(f"{path} line {number}: expected NAME=value, found {line.strip()[:60]!r}")
        values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.split(" #", 1)[0].rstrip()
