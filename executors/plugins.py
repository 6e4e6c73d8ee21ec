"""Executors from other packages: which there are, and whether each can be used.

A plug-in is imported in a process of its own to see whether it can be used, because an import may raise, hang, or end the process; none of that
touches another plug-in or what is built in.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from msgspec import Struct

GROUP = "mloc.executors"
CHECK_SEC = 40
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MARK = "mloc-plugin-check:"


class Plugin(Struct, frozen=True):
    """One entry point of the group: a task type, and where its `run` is. `package`: who brings it, with its version."""

    task_type: str
    module: str
    function: str
    package: str


@cache
def installed_plugins() -> tuple[Plugin, ...]:
    """In the order of their packages' names; nothing is imported."""
    found = {
        Plugin(point.name, point.module, point.attr or "run", f"{point.dist.name} {point.dist.version}" if point.dist else "?")
        for point in importlib.metadata.entry_points(group=GROUP)
    }
    return tuple(sorted(found, key=lambda plugin: (plugin.package, plugin.task_type)))


def usable_names(built_in: Collection[str]) -> dict[str, Plugin]:
    """Task type → the plug-in that has it: the first of those that may."""
    named: dict[str, Plugin] = {}
    for plugin in installed_plugins():
        if plugin.task_type not in built_in and _NAME.fullmatch(plugin.task_type):
            named.setdefault(plugin.task_type, plugin)
    return named


def problems(built_in: Collection[str]) -> dict[Plugin, str]:
    """What keeps each plug-in from being used, in words; those that can be used are not among them."""
    named = usable_names(built_in)
    found = {}
    for plugin in installed_plugins():
        if plugin.task_type in built_in:
            found[plugin] = f"its task type {plugin.task_type!r} is built in, and the built-in executor keeps the name"
        elif plugin.task_type not in named:
            found[plugin] = f"{plugin.task_type!r} is no name for a task type: lower case letters, digits, - and _"
        elif named[plugin.task_type] != plugin:
            found[plugin] = f"{named[plugin.task_type].package} brings the task type {plugin.task_type!r}, too, and was taken"
    rest = [plugin for plugin in installed_plugins() if plugin not in found]
    with ThreadPoolExecutor(4) as pool:
        found |= {plugin: words for plugin, words in zip(rest, pool.map(_problem_of, rest), strict=True) if words}
    return found


def _problem_of(plugin: Plugin) -> str:
    command = [sys.executable, "-m", "mloc.executors.plugins", plugin.module, plugin.function]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=CHECK_SEC, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return f"importing {plugin.module} took longer than {CHECK_SEC} s"
    marked = [line for line in ran.stdout.splitlines() if line.startswith(_MARK)]
    if not marked:
        return f"importing {plugin.module} ended the process with exit code {ran.returncode}"
    return str(json.loads(marked[-1].removeprefix(_MARK)))


def _look_at(module: str, function: str) -> str:
    try:
        loaded = importlib.import_module(module)
    except BaseException as error:  # a plug-in may raise anything, SystemExit too
        return f"importing {module} raises {type(error).__name__}: {error}"[:500]
    for name, arguments in ((function, ("task", "engine", "context")), ("load", ("task", "context"))):
        found = getattr(loaded, name, None)
        if found is None and name == "load":
            continue
        if not callable(found):
            return f"{module} has no function {name!r}" if found is None else f"{module}.{name} is no function"
        try:
            inspect.signature(found).bind(*arguments)
        except (TypeError, ValueError) as error:
            return f"{module}.{name} does not take ({', '.join(arguments)}): {error}"
    return ""


def main(arguments: list[str]) -> None:
    """Look at one plug-in and print what is wrong with it; then leave at once, whatever it started."""
    print(f"{_MARK}{json.dumps(_look_at(*arguments))}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
