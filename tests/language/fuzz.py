"""Feeds mutated task files to the reader for a while: `python tests/language/fuzz.py SECONDS SEED`. A process of its own, so that memory can be
measured and bounded. Prints one JSON object: how many were read, the worst CPU time and memory, and the first text that broke a promise.

The promises: nothing but LanguageError is raised; a text takes at most 1 s of CPU (`SLOWER` times that here: the machine may be busy, and its
caches cold); reading never takes more than 200 MB over what the interpreter itself needs.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks
from mloc.core.language.yaml_source import MAX_TEXT_BYTES, decode_text, load_documents
from mloc.services.intake.commands.problems import problem_text

HERE = Path(__file__).parent
ROOM = HERE.parents[1] / "templates"
SLOWER = 3.0
MOST_CPU_SEC = 1.0 * SLOWER
MOST_BYTES = 200 << 20

SEEDS = [file.read_bytes() for file in sorted((*HERE.glob("*/*.yaml"), *ROOM.glob("core/*.yaml"), *ROOM.glob("experiments/*.yaml")))]
TOKENS = [token.encode() for token in (
    "${a.result.x}", "${env.X}", "${", "}", "*a", "&a ", "<<: ", "null", "[]", "{}", "- ", ": ", ":", "\n", "\t", "!!str ", "!!python/name:os ",
    "'", '"', "\\ud83d", "5", "-1", "1e400", ".nan", "|\n", ">-\n", "é", "\u2028", "\x85", "---\n", "...\n", "%YAML 1.1\n", "#", "? ", ",",
    "taskType: ", "spec:\n", "stages:\n", "graph: ", "dependsOn: ", "type: ", "data: ", "true", "yes", "0x", "1_000", "9" * 30, "\x00", "\xff",
)] + [b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r\n", b"\r"]  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, "", "x" * 3000, "${a.result.b}", "${a}", "${env.X}", [], {}, [None], {"": None}, {"type": "list"},
    {"type": 5}, [[[[]]]], "\x00", "é" * 50, "1:30", "=", "<<", "~", "- a", "{a: b}", "auto", "stage", {"name": "a", "spec": {}}, "*",
]  # fmt: skip


def of_bytes(chance: random.Random) -> bytes:
    """A file with bytes taken out, put in, doubled, swapped, or spliced with another."""
    text = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(7):
            case 0:
                del text[at : at + chance.randint(1, 40)]
            case 1 | 2:
                text[at:at] = chance.choice(TOKENS)
            case 3:
                text[at:at] = text[max(0, at - chance.randint(1, 80)) : at] * chance.choice((1, 2, 8, 300))
            case 4:
                other = chance.choice(SEEDS)
                start = chance.randrange(len(other) + 1)
                text[at:at] = other[start : start + chance.randint(1, 400)]
            case 5:
                text[at : at + 1] = bytes([chance.randrange(256)])
            case 6:
                del text[at:]
    return bytes(text[: MAX_TEXT_BYTES + 10])


def of_repetition(chance: random.Random) -> bytes:
    """A short piece many times over: what a limit must stop."""
    piece = b"".join(chance.choice(TOKENS) for _ in range(chance.randint(1, 4)))
    piece = piece.replace(b"\x00", b"") or b"["
    start = chance.choice((b"", b"a: ", b"apiVersion: mloc/v1\nspec:\n  taskType: echo\n  data: ", b"x: &a [1]\ny: "))
    return start + piece * chance.choice((10, 1_000, (MAX_TEXT_BYTES - len(start)) // len(piece)))


def of_trees(chance: random.Random, trees: list[Any]) -> bytes:
    """A file whose values are exchanged, renamed, moved or wrapped, written as YAML or JSON."""
    tree = json.loads(json.dumps(chance.choice(trees), default=str))
    for _ in range(chance.randint(1, 5)):
        places = list(_containers(tree))
        if not places:
            break
        place = chance.choice(places)
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            continue
        key = chance.choice(keys)
        match chance.randrange(6):
            case 0 | 1:
                place[key] = copy.deepcopy(chance.choice(ODD))
            case 2:
                other = chance.choice(places)
                place[key] = json.loads(json.dumps(other))
            case 3:
                place[key] = [place[key]] if chance.random() < 0.5 else {"spec": place[key]}
            case 4 if isinstance(place, dict):
                place[chance.choice(["type", "name", "id", "data", "taskTyp", "spec", "prompts", "", "é", "x" * 200])] = place.pop(key)
            case _:
                del place[key]
    if chance.random() < 0.5:
        return json.dumps(tree, ensure_ascii=chance.random() < 0.5).encode(errors="replace")
    return str(yaml.safe_dump(tree, allow_unicode=True, default_flow_style=chance.choice((True, False)))).encode(errors="replace")


def _containers(value: Any) -> Any:
    if isinstance(value, dict | list):
        if len(value):
            yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def read(text: bytes) -> None:
    try:
        read_tasks(text, "f.yaml")
    except LanguageError as error:
        lines = text.decode(errors="replace").splitlines()
        said = sum(len(problem_text(problem, lines)) for problem in error.problems)
        if not 0 < said < 200_000:
            raise AssertionError(f"{len(error.problems)} problems are said in {said} characters") from error


def trees_of_seeds() -> list[Any]:
    trees: list[Any] = []
    for text in SEEDS:
        with contextlib.suppress(LanguageError):
            documents, _ = load_documents(decode_text(text))
            trees += [document for document in documents if isinstance(document, dict)]
    return [json.loads(msgspec.json.encode(tree)) for tree in trees]


def run(seconds: float, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    trees = trees_of_seeds()
    for text in SEEDS:  # what is loaded once is not counted
        read(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MOST_BYTES, hard))
    kinds: list[Callable[[], bytes]] = [lambda: of_bytes(chance), lambda: of_trees(chance, trees), lambda: of_repetition(chance)]
    told: dict[str, Any] = {"read": 0, "worst_cpu_sec": 0.0, "worst_bytes": 0, "broken": None}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and told["broken"] is None:
        text = chance.choices(kinds, (10, 10, 1))[0]()
        started = time.process_time()
        try:
            read(text)
        except BaseException:
            told["broken"] = _broken(traceback.format_exc(limit=-4), text)
        took = time.process_time() - started
        told["read"] += 1
        told["worst_cpu_sec"] = max(told["worst_cpu_sec"], took)
        if took > MOST_CPU_SEC:
            told["broken"] = told["broken"] or _broken(f"took {took:.2f} s of CPU", text)
    told["worst_bytes"] = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
    if told["worst_bytes"] > MOST_BYTES:
        told["broken"] = told["broken"] or _broken(f"took {told['worst_bytes']:,} bytes", b"")
    return told


def _broken(why: str, text: bytes) -> dict[str, str]:
    return {"why": why, "text": base64.b64encode(text[:20_000]).decode()}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 1 << 40


if __name__ == "__main__":
    print(json.dumps(run(float(sys.argv[1]), int(sys.argv[2]))))
