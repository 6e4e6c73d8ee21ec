"""Why an embedded server did not start, from the last lines that it said, in words that tell a person what to do."""

import re
import shlex
from pathlib import Path

_DAMAGED = re.compile(r"(?:Bad file format|Unrecoverable error) reading the append only file (?P<file>[^\s:]+)")


class EmbeddedServerError(Exception):
    """The embedded server cannot run. `hopeless` where trying again cannot help before a person did something."""

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


def explain_exit(said: str, folder: Path, binary: Path, socket: Path) -> EmbeddedServerError:
    """`said` is the end of the server's log, `folder` its data folder."""
    if damaged := _DAMAGED.search(said):
        return _damaged_log(damaged["file"], folder, binary)
    if "No space left on device" in said:
        return EmbeddedServerError(f"the disk of {folder} is full: the event log cannot be written; make room and it goes on")
    if "Failed opening Unix socket" in said or "Address already in use" in said:
        return EmbeddedServerError(f"the socket {socket} cannot be opened: is its folder writable, or does another server hold it?", True)
    if "Permission denied" in said or "Read-only file system" in said:
        return EmbeddedServerError(f"the server may not write {folder}: give it to this user, or set ORCHESTRATOR_STATE_DIR", True)
    if "Can't allocate" in said or "Out Of Memory" in said or "Cannot allocate memory" in said:
        return EmbeddedServerError("there is not enough memory to load the event log: end other programs, or use a larger machine")
    last = " / ".join(said.strip().splitlines()[-3:]) or "it said nothing"
    return EmbeddedServerError(f"the embedded server ended at its start: {last} (more in {folder / 'server.log'})")


def _damaged_log(file: str, folder: Path, binary: Path) -> EmbeddedServerError:
    """The embedded program is also the checking tool when it is called by that name, so a link by that name is laid beside the data.

    The tool is told the damaged file, not the manifest: through the manifest some versions take a good base file for a damaged one.
    """
    damaged = next(iter(sorted(folder.glob(f"*/{Path(file).name}"))), folder / "appendonlydir" / Path(file).name)
    tool = folder / ("redis-check-aof" if "redis" in binary.name else "valkey-check-aof")
    if not tool.exists():
        tool.symlink_to(binary.resolve())
    copy = f"cp -r {shlex.quote(str(folder))} {shlex.quote(str(folder) + '.copy')}"
    repair = f"{shlex.quote(str(tool))} --fix {shlex.quote(str(damaged))}"
    message = f"the event log on disk is damaged ({damaged}), so the server refuses to load it. "
    if damaged.suffix == ".aof" and ".incr." in damaged.name:
        message += (
            f"Keep a copy (`{copy}`), then cut it at the last good entry (`{repair}`) and start again. What follows the damage is lost "
            f"from this file; the archive in {folder.parent / 'archive'} keeps what was archived before"
        )
    else:
        message += f"This file cannot be cut: restore {folder} from a backup; the archive in {folder.parent / 'archive'} keeps older events"
    return EmbeddedServerError(message, hopeless=True)
