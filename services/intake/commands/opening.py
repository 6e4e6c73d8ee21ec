"""Which MLOC a command talks to: `--url`; else the event log of REDIS_URL or of this folder's `mloc up`; else ORCHESTRATOR_URL."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from mloc.services.intake.commands.api_client import ApiClient, api_root
from mloc.services.intake.commands.api_source import ApiSource
from mloc.services.intake.commands.log_session import opened
from mloc.services.intake.commands.log_source import LogSource
from mloc.services.intake.commands.output import say
from mloc.services.intake.commands.source import Source
from mloc.services.intake.local_paths import MissingIsWrong
from mloc.services.server.address import NoServerError
from mloc.services.server.record import find_server
from mloc.services.settings import Settings, SettingsError


def api_url(settings: Settings, asked: argparse.Namespace) -> str:
    """The API to talk to; "" where it is the event log itself. Raises SettingsError."""
    if asked.url is not None:
        return api_root(asked.url)
    if settings.redis_url or find_server(settings.state_dir) or not settings.orchestrator_url:
        return ""
    try:
        return api_root(settings.orchestrator_url)
    except SettingsError as error:
        raise SettingsError(f"ORCHESTRATOR_URL cannot be used: {error}") from error


def missing_is_wrong(settings: Settings, asked: argparse.Namespace) -> MissingIsWrong:
    """Whether a local file that a task names must be on this machine: not where its path is sent as it is. Raises SettingsError."""
    if not api_url(settings, asked):
        return True
    return False if asked.no_upload else "relative"


@contextlib.asynccontextmanager
async def open_source(settings: Settings, asked: argparse.Namespace) -> AsyncIterator[Source]:
    """Raises NoServerError, SettingsError; nothing is sent yet."""
    if url := api_url(settings, asked):
        async with aiohttp.ClientSession() as session:
            client, again = ApiClient(url, settings.orchestrator_token or "", session, say), f" --url {url}" if asked.url is not None else ""
            quiet = getattr(asked, "quiet", True) or asked.json
            yield ApiSource(client, again, uploads=not getattr(asked, "no_upload", False), quiet=quiet)
        return
    try:
        log = opened(settings, catch_up=False)
        async with log as session_of_log:
            yield LogSource(session_of_log)
    except NoServerError as error:
        raise NoServerError(f"{error}; or name an API elsewhere with --url or ORCHESTRATOR_URL") from error
