"""Before a task file goes to an API elsewhere, the local files that it names are brought there, each content once.

A broken connection is gone on from where it was; a folder goes as one archive whose bytes depend on its files alone.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mloc.core.language.errors import LanguageError, Problem, shown
from mloc.services.artifacts.archive_streams import ArchiveRefused
from mloc.services.artifacts.client import Transfer, TransferError
from mloc.services.artifacts.digests import file_sha256
from mloc.services.artifacts.inputs import FOLDER_SUFFIX
from mloc.services.artifacts.packing import pack
from mloc.services.intake.commands.api_client import segment
from mloc.services.intake.commands.output import printable, say
from mloc.services.intake.commands.source import Unreachable
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.settings import SettingsError

SAID_BYTES = 8 << 20  # what is larger is told of where nobody draws
_LONGEST_NAME = 100

Step = Callable[[int, int], object]


async def bring(root: str, transfer: Transfer, files: Mapping[str, str], *, quiet: bool) -> dict[str, str]:
    """`files`: as written → on this machine. Gives: as written → where the API has it.

    Raises LanguageError for a file that cannot be read, Unreachable, SettingsError, RequestRefused.
    """
    places: dict[str, str] = {}
    with _shown(quiet) as began, tempfile.TemporaryDirectory(prefix="mloc-upload-") as folder:
        for written, local in files.items():
            if local not in places:
                try:
                    places[local] = await _bring_one(root, transfer, Path(local), Path(folder), began)
                except (OSError, ArchiveRefused) as error:
                    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                    raise LanguageError((Problem(f"the file cannot be uploaded: {why}", found=shown(written), hint=local),)) from error
    return {written: places[local] for written, local in files.items()}


async def _bring_one(root: str, transfer: Transfer, local: Path, packed: Path, began: Callable[[str, int], Step]) -> str:
    """Where the API has it."""
    file, name = local, _name(local.name)
    if local.is_dir():
        name += FOLDER_SUFFIX
        file = packed / name
        await asyncio.to_thread(pack, local, file)
    try:
        sha256 = await asyncio.to_thread(file_sha256, file)
        url = f"{root}/api/v1/inputs/{sha256}/{segment(name)}"
        stored = await transfer.upload(url, file, sha256=sha256, progress=began(printable(local.name), file.stat().st_size))
        return stored.path
    except TransferError as error:
        raise _told(root, local, error) from error
    finally:
        if file != local:
            file.unlink(missing_ok=True)


def _told(root: str, local: Path, error: TransferError) -> Exception:
    match error.status:
        case 0:
            return Unreachable(f"{local.name} could not be uploaded to {root}: {error}")
        case 401 | 403:
            return SettingsError(f"{root} refuses {local.name}: {error}. Set ORCHESTRATOR_TOKEN to the token of that API")
        case 404 | 405:
            return SettingsError(f"{root} takes no files: that API is older than this command; --no-upload sends paths that its workers see")
    return RequestRefused(f"{local.name} could not be uploaded to {root}: {error}", "--no-upload sends paths that the workers see")


def _name(name: str) -> str:
    """As the API takes it, with the ending by which a reader knows the format."""
    return re.sub(r"[^\w.-]", "_", name)[-_LONGEST_NAME:].lstrip(".") or "file"


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[str, int], Step]]:
    """A bar a file on a terminal; elsewhere a line when a large one begins."""
    if quiet or not sys.stderr.isatty():

        def told(name: str, size: int) -> Step:
            if not quiet and size >= SAID_BYTES:
                say(f"uploading {name}, {size / 2**20:,.1f} MiB")
            return _silent

        yield told
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def drawn(name: str, size: int) -> Step:
            bar = bars.add_task(f"uploading {name}".replace("[", r"\["), total=max(1, size))
            return lambda done, _: bars.update(bar, completed=done if size else 1)

        yield drawn


def _silent(done: int, size: int) -> None:
    return None
