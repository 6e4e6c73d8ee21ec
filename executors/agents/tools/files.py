"""The tool `files`: list, read and write below the question's own folder, and nowhere else: no links are followed out of it.

What the agent is to find there is given with the task: `{files: {content: {name: text}, folder: a folder whose files are copied in}}`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.contract import ExecutorError

MOST_FILES = 1000
MOST_BYTES = 64 << 20
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`content`: files by name; `folder`: on the worker, copied in; `output`: characters of a file that are shown."""

    content: dict[str, str] = {}
    folder: str | None = None
    output: int = 8000
    read_only: bool = False


def _make(options: Options, place: Place, _: ExitStack) -> Iterable[BaseTool]:
    root = place.folder
    for name, text in options.content.items():
        write(root, name, text)
    if options.folder:
        _copy_in(Path(place.context.local(options.folder)), root)

    def list_files() -> str:
        return "\n".join(f"{name} ({size} bytes)" for name, size in listed(root)) or "(no files)"

    def read_file(path: str) -> str:
        text = read(root, path)
        return text if len(text) <= options.output else f"{text[: options.output]}\n(cut: {len(text)} characters)"

    def write_file(path: str, text: str) -> str:
        return f"{write(root, path, text)} bytes written to {path}"

    yield StructuredTool.from_function(list_files, description="Lists the files that there are.")
    yield StructuredTool.from_function(read_file, description="Reads a file and gives its text.")
    if not options.read_only:
        yield StructuredTool.from_function(write_file, description="Writes a text into a file; what was in it is gone.")


def listed(root: Path) -> list[tuple[str, int]]:
    """Name and size of every ordinary file below the folder."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            if stat.S_ISREG((seen := file.lstat()).st_mode):
                found.append((str(file.relative_to(root)), seen.st_size))
    return sorted(found)[:MOST_FILES]


def read(root: Path, name: str) -> str:
    """Raises OSError where it is not there, is no ordinary file or lies elsewhere."""
    with _inside(root, name, make=False) as (folder, last):
        file = os.open(last, os.O_RDONLY | os.O_NONBLOCK | _FLAGS, dir_fd=folder)
        with os.fdopen(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise PermissionError(f"{name} is no ordinary file")
            return opened.read(MOST_BYTES).decode("utf-8", "replace")


def write(root: Path, name: str, text: str) -> int:
    """Bytes written. Raises OSError."""
    written = text.encode("utf-8", "replace")
    files = listed(root)
    if len(files) >= MOST_FILES or sum(size for _, size in files) + len(written) > MOST_BYTES:
        raise PermissionError(f"the folder is full: at most {MOST_FILES} files and {MOST_BYTES} bytes")
    with _inside(root, name, make=True) as (folder, last):
        file = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | _FLAGS, 0o644, dir_fd=folder)
        with os.fdopen(file, "wb") as opened:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise PermissionError(f"{name} is no ordinary file")
            return opened.write(written)


@contextmanager
def _inside(root: Path, name: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """The opened folder of the file and its last name, reached step by step without following a link."""
    steps = [step for step in PurePosixPath(name).parts if step != "."]
    if not steps or ".." in steps or PurePosixPath(name).is_absolute():
        raise PermissionError(f"{name!r} does not lie below the folder; name files without a leading slash and without ..")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps[:-1]:
            if make and not os.access(step, os.F_OK, dir_fd=at, follow_symlinks=False):
                os.mkdir(step, dir_fd=at)
            below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | _FLAGS, dir_fd=at)
            os.close(at)
            at = below
        yield at, steps[-1]
    finally:
        os.close(at)


def _copy_in(source: Path, root: Path) -> None:
    if not source.is_dir():
        raise ExecutorError("FileNotFound", f"agent.tools: files: the folder {source} is not on the worker")
    for name, _ in listed(source):
        try:
            write(root, name, read(source, name))
        except OSError as error:
            raise ExecutorError("BadSetting", f"agent.tools: files: {name} of {source} cannot be copied: {error}") from error


def _check(options: Options, _: TaskSpec) -> None:
    for name in options.content:
        if not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise ExecutorError("BadSetting", f"agent.tools: files: {name!r} does not lie below the folder")


KIND = Kind(Options, _make, _check)
