"""The Lua scripts of the event log: each is `scripts/prelude.lua` and its own file, and is called by its digest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    text: bytes
    sha1: str  # by which the server knows it


NAMES = ("submit", "submit_each", "lease", "renew", "commit", "register", "retire", "heartbeat", "start", "report", "acknowledge")


def _load(name: str) -> Script:
    folder = files("mloc.services.log") / "scripts"
    text = (folder / "prelude.lua").read_bytes() + b"\n" + (folder / f"{name}.lua").read_bytes()
    return Script(text, hashlib.sha1(text).hexdigest())


SCRIPTS = {name: _load(name) for name in NAMES}
