"""Runs scenarios against a deployment: submit, wait, compare. Each ends with a verdict; one that fails does not keep the others back."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from mloc.core.language.errors import LanguageError
from mloc.services.artifacts.client import Transfer, TransferError
from mloc.services.artifacts.digests import file_sha256
from mloc.services.check.scenarios import SCENARIOS, Device, Scenario, task_of
from mloc.services.intake.commands.api_client import ApiClient, api_root, segment
from mloc.services.intake.commands.api_source import ApiSource
from mloc.services.intake.commands.opening import open_source
from mloc.services.intake.commands.source import MaybeTaken, Source, Unreachable, has_ended
from mloc.services.intake.commands.submit import prepare
from mloc.services.intake.task_file import TaskFile
from mloc.services.intake.task_names import UnknownTask
from mloc.services.log.event_log import BacklogFull, LogError, LogUnavailable
from mloc.services.server.address import NoServerError
from mloc.services.settings import Settings, SettingsError

UPLOAD_BYTES = 1 << 20
LOOK_SEC = 0.25
_TROUBLE = (LanguageError, LogError, BacklogFull, MaybeTaken, NoServerError, SettingsError, TransferError, UnknownTask, Unreachable)


class Verdict(Struct, frozen=True):
    """How one scenario ended. `skipped`: it does not apply here, which is no failure; `unreachable`: nobody was there to ask."""

    scenario: str
    ok: bool
    seconds: float
    said: str
    task_id: str = ""
    skipped: bool = False
    unreachable: bool = False


class CheckFailed(Exception):
    """The scenario did not end as it should; says how, and where to look."""


class Skipped(Exception):
    """The scenario has nothing to check here; says why."""


async def check(settings: Settings, names: list[str], device: Device, url: str | None, timeout_sec: float, tell: Callable[[Verdict], None]) -> None:
    """Run the scenarios one after the other, and tell of each when it has ended."""
    for name in names:
        tell(await _judge(settings, SCENARIOS[name], device, url, timeout_sec))


async def _judge(settings: Settings, scenario: Scenario, device: Device, url: str | None, timeout_sec: float) -> Verdict:
    began = time.monotonic()
    ids: list[str] = []
    try:
        async with asyncio.timeout(timeout_sec), _source(settings, scenario, url) as source:
            said = await _run(source, scenario, device, ids)
            if scenario.uploads:
                said = await _upload(settings, url, ids[0])
    except Skipped as error:
        return Verdict(scenario.name, True, _since(began), str(error), skipped=True)
    except TimeoutError:
        where = f"`mloc-intake explain {ids[0]}` says why it waits" if ids else "is the deployment running? `mloc doctor` looks"
        return Verdict(scenario.name, False, _since(began), f"not done after {timeout_sec:.0f} s: {where}", "".join(ids))
    except (CheckFailed, *_TROUBLE) as error:
        unreachable = not ids and isinstance(error, NoServerError | LogUnavailable | Unreachable)
        return Verdict(scenario.name, False, _since(began), str(error), "".join(ids), unreachable=unreachable)
    return Verdict(scenario.name, True, _since(began), said, "".join(ids))


@contextlib.asynccontextmanager
async def _source(settings: Settings, scenario: Scenario, url: str | None) -> AsyncIterator[Source]:
    """The event log or the API, as the scenario asks."""
    if scenario.way == "log" and url is not None:
        raise Skipped("it needs the event log itself; run it without --url")
    if scenario.way == "http" and url is None:
        async with aiohttp.ClientSession() as session:
            yield ApiSource(ApiClient(_own_api(settings), settings.orchestrator_token or "", session, lambda line: None), "")
        return
    async with open_source(settings, argparse.Namespace(url=url)) as source:
        if scenario.way == "log" and isinstance(source, ApiSource):
            raise Skipped("it needs the event log itself; here is only an API")
        yield source


def _own_api(settings: Settings) -> str:
    """The API of this machine, or the one that ORCHESTRATOR_URL names."""
    return api_root(settings.orchestrator_url or f"http://127.0.0.1:{settings.port}")


async def _run(source: Source, scenario: Scenario, device: Device, ids: list[str]) -> str:
    """What to say of it. The task's id is put into `ids` as soon as there is one."""
    device, said = await _placed(source, scenario, device)
    accepted = await source.submit(_prepared(scenario, device), "")
    ids += accepted.roots
    (id,) = ids
    async with source.following():
        while not ((views := await source.family([id])) and has_ended(views[0])):
            await source.moved(LOOK_SEC)
    view = views[0]
    if view["state"] != "published":
        error = view.get("error") or {}
        raise CheckFailed(f"{id} is {view['state'].replace('_', ' ')}: {error.get('message') or view.get('reason') or 'see mloc-intake show'}")
    await source.settle([id])
    result = await source.result(id)
    wrong = scenario.wrong(msgspec.json.decode(result)) if result else "its result cannot be found"
    if wrong:
        raise CheckFailed(f"{id} is done, but {wrong}")
    workers = sorted({part["worker_id"] for part in views if part["worker_id"]})
    return f"{said}done by {', '.join(workers) or 'a worker'}"


async def _placed(source: Source, scenario: Scenario, device: Device) -> tuple[Device, str]:
    """The device to run on, and what to say of it. Raises CheckFailed where no worker can ever take it, instead of waiting for one."""
    device = "gpu" if scenario.falls_back else device
    placement: dict[str, Any] = (await source.dry_run(_prepared(scenario, device)))["tasks"][0]["placement"] or {}
    match placement.get("reason"):
        case "never_fits" if scenario.falls_back:
            return "cpu", "no worker has a GPU for it; on the CPU: "
        case "never_fits" | "no_worker":
            raise CheckFailed(f"{placement['summary']}; `mloc doctor` beside a worker says what it lacks")
    return device, ""


def _prepared(scenario: Scenario, device: Device) -> Any:
    text = msgspec.json.encode(task_of(scenario, device))
    return prepare(TaskFile(f"<{scenario.name}>", text, Path.cwd()), {}, missing_is_wrong=False)


async def _upload(settings: Settings, url: str | None, task: str) -> str:
    """A file of a task there and back. Raises CheckFailed, TransferError."""
    root = api_root(url) if url is not None else _own_api(settings)
    with TemporaryDirectory(prefix="mloc-check-") as folder:
        sent, back = Path(folder, "sent.bin"), Path(folder, "back.bin")
        sent.write_bytes(bytes(range(256)) * (UPLOAD_BYTES // 256))
        async with aiohttp.ClientSession() as session:
            transfer = Transfer(session, token=settings.orchestrator_token or "", patience_sec=30.0)
            stored = await transfer.upload(f"{root}/api/v1/tasks/{segment(task)}/files/check.bin", sent)
            await transfer.download(f"{root}/api/v1/tasks/{segment(task)}/files/{stored.name}", back, sha256=stored.sha256)
        if file_sha256(back) != file_sha256(sent):
            raise CheckFailed(f"the file that came back from {root} is another one")
    return f"{UPLOAD_BYTES:,} bytes to {root} and back, the sha256 is right"


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
