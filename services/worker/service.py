"""The worker process: what it is made of, and what it says to a person when it cannot start."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from mloc.core.worker import part_of
from mloc.services.callbacks.hosts import AllowedHosts
from mloc.services.clock import Clock, SystemClock
from mloc.services.exit_codes import CLEAN, MISCONFIGURED
from mloc.services.log.event_log import EventLog, LogError, WorkerRefused
from mloc.services.log.redis_log import RedisLog
from mloc.services.results.results_mark import SharedFolder
from mloc.services.server.address import event_log_url
from mloc.services.settings import Settings, allowed_variables, read_environment
from mloc.services.signals import stop_on_signals
from mloc.services.transfers.attempt_files import AttemptFiles
from mloc.services.transfers.input_cache import InputCache
from mloc.services.transfers.input_fetching import InputFetcher
from mloc.services.transfers.remote_files import RemoteFiles
from mloc.services.transfers.results_api import worker_api
from mloc.services.transfers.transfers import Transfers
from mloc.services.worker.agent import Agent, WorkerPlan
from mloc.services.worker.hardware import UsageSampler, measure_hardware
from mloc.services.worker.hosts.host_process import ProcessLauncher
from mloc.services.worker.input_resolution import InputResolver
from mloc.services.worker.ledger import LedgerError
from mloc.services.worker.ledger_file import open_ledger
from mloc.services.worker.library_versions import library_versions

OFFER_TIMEOUT_SEC = 120
MOST_WORDS = 300  # characters, of why a task type is not offered

_log = structlog.get_logger("worker")


class Offer(Struct, frozen=True):
    """One task type as the executors' registry prints it."""

    task_type: str
    runs: bool
    family: str = ""
    missing: list[str] = []
    extra: str = ""
    package: str = ""
    problem: str = ""
    lacking_parts: dict[str, str] = {}

    @property
    def lacks(self) -> str:
        """Why it does not run here, and what to do."""
        if self.problem:
            return f"the plug-in of {self.package} cannot be used: {self.problem}"
        return f"it lacks {', '.join(self.missing)}" + (f': pip install "mloc[{self.extra}]"' if self.extra else "")


class WorkerMisconfigured(Exception):
    """The worker cannot be of use before a person changed something."""


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM; gives the exit code."""
    try:
        asyncio.run(_run(settings))
    except (LedgerError, WorkerRefused, WorkerMisconfigured) as error:
        print(f"mloc worker: {error}", file=sys.stderr)
        return MISCONFIGURED
    return CLEAN


async def _run(settings: Settings) -> None:
    stop = stop_on_signals()
    environ = read_environment()
    clock = SystemClock()
    ledger, ledger_file = await open_ledger(settings.worker_folder, settings.worker_id)
    results_dir = _results_folder(settings)
    plan = _plan(settings, environ)
    url = event_log_url(settings)
    log, reader = RedisLog(url, settings.mloc_namespace), RedisLog(url, settings.mloc_namespace)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # thousands of short-lived attempts a second are no reason to look at everything
    transfers = _transfers(settings, reader, clock, results_dir, settings.worker_folder / ledger.worker / "cache")
    aside = [asyncio.ensure_future(_say_if_cut_off(transfers)), asyncio.ensure_future(transfers.keep_clear())]
    try:
        await Agent(
            plan, log, clock, ledger, ProcessLauncher(environ, ledger.worker, clock),
            InputResolver(reader, clock, results_dir, allowed_variables(settings, environ), transfers.result_file),
            UsageSampler(plan.hardware.devices).sample, stop,
            transfers,
        ).run()  # fmt: skip
    finally:
        for work in aside:
            work.cancel()
        await transfers.close()
        await log.close()
        await reader.close()
        ledger_file.close()


def _plan(settings: Settings, environ: Mapping[str, str]) -> WorkerPlan:
    listed = installed_task_types(environ)
    offers = [offer for offer in listed if offer.runs]
    for offer in listed:
        if offer.problem:
            _log.warning("a plug-in cannot be used", task_type=offer.task_type, package=offer.package, problem=offer.problem)
    wanted = settings.task_topics
    task_types = tuple(offer.task_type for offer in offers if not wanted or offer.task_type in wanted)
    if not task_types:
        raise WorkerMisconfigured(
            f"none of the task types {', '.join(wanted)} (TASK_TOPICS) can run here; what is installed can run: "
            f"{', '.join(offer.task_type for offer in offers) or 'none'} (`mloc doctor` says what each of them needs)"
        )
    return WorkerPlan(
        hardware=measure_hardware(environ), task_types=task_types, families={offer.task_type: offer.family for offer in offers if offer.family},
        tags=settings.worker_tags, slots=settings.worker_slots, cost_per_hour=settings.worker_cost_per_hour,
        heartbeat_interval_sec=settings.heartbeat_interval_sec, heartbeat_ttl_sec=settings.heartbeat_ttl_sec,
        drain_sec=settings.worker_drain_sec, stop_grace_sec=settings.stop_grace_sec, versions=library_versions(),
        lacks=_lacks(listed, task_types),
    )  # fmt: skip


def _lacks(listed: list[Offer], task_types: tuple[str, ...]) -> dict[str, str]:
    """Task type, or part of one → why this worker does not offer it, in a few words."""
    runs = {offer.task_type for offer in listed if offer.runs}
    lacking = {offer.task_type: offer.lacks[:MOST_WORDS] for offer in listed if offer.task_type not in runs}
    for offer in listed:
        if offer.task_type in task_types:
            lacking |= {part_of(offer.task_type, part): words[:MOST_WORDS] for part, words in offer.lacking_parts.items()}
    return lacking | {task_type: "its TASK_TOPICS leave it out" for task_type in runs if task_type not in task_types}


def installed_task_types(environ: Mapping[str, str]) -> list[Offer]:
    """What the executors' registry offers, asked in a process of its own: a plug-in may import anything. Raises WorkerMisconfigured."""
    command = [sys.executable, "-m", "mloc.executors.registry", "--json"]
    try:
        answer = subprocess.run(command, capture_output=True, env=dict(environ), timeout=OFFER_TIMEOUT_SEC, check=True).stdout
        return msgspec.json.decode(answer, type=list[Offer])
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise WorkerMisconfigured(f"the executors cannot be listed: {said[-1] if said else error}") from error
    except (OSError, subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
        raise WorkerMisconfigured(f"the executors cannot be listed: {error}") from error


def _transfers(settings: Settings, log: EventLog, clock: Clock, results_dir: Path, cache_folder: Path) -> Transfers:
    cache = InputCache(cache_folder, settings.worker_cache_size)
    try:
        cache.open()
    except OSError as error:
        raise WorkerMisconfigured(f"the worker's cache {cache_folder} cannot be made ({error.strerror}): choose another WORKER_DIR") from error
    remote = RemoteFiles(cache, clock, worker_api(settings))
    files = AttemptFiles(remote.api, clock) if remote.api is not None else None
    hosts = AllowedHosts(settings.callback_allowed_hosts)
    inputs = InputFetcher(results_dir, remote, clock, settings.allowed_output_roots)
    return Transfers(results_dir, SharedFolder(results_dir, log, clock), inputs, files, clock, hosts)


async def _say_if_cut_off(transfers: Transfers) -> None:
    try:
        if await transfers.is_cut_off():
            _log.warning(transfers.no_way)
    except LogError:  # the agent says what is wrong with the log
        return


def _results_folder(settings: Settings) -> Path:
    folder = settings.worker_results_dir.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkerMisconfigured(f"RESULTS_DIR={folder} cannot be made ({error.strerror}): choose another folder") from error
    return folder
