"""Old logs replay for ever: each golden log folds to the digest that it had when it was kept.

A log is added when events or the fold change; none is ever rewritten. `python -m tests.golden.test_old_logs NAME [SEED]` keeps a new one: the history
of `rows_engines_receivers.py` where the name begins like that, else one of the simulation: with a seed that one, whose server loses what is newest.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from mloc.core import codec
from mloc.core.cluster import Cluster, Stored
from mloc.core.events import Event
from mloc.core.fold import evolve
from mloc.core.worker import Worker

FOLDER = Path(__file__).parent
LOGS = sorted(FOLDER.glob("*.jsonl"))


def fold(lines: list[str]) -> Cluster:
    cluster = Cluster()
    for line in lines:
        id, data = json.loads(line)
        event = codec.decode(data["type"], json.dumps(data))
        assert isinstance(event, Event), f"{id}: {data['type']} is not known any more"
        evolve(cluster, id, event)
    return cluster


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_an_old_log_folds_to_the_state_that_it_gave_when_it_was_kept(log: Path):
    lines = log.read_text().splitlines()
    kept = json.loads(log.with_suffix(".json").read_text())
    cluster = fold(lines)
    assert (len(lines), cluster.counts(), cluster.digest()) == (kept["entries"], kept["tasks"], kept["digest"])


def test_the_golden_logs_hold_every_event():
    seen = {json.loads(line)[1]["type"] for log in LOGS for line in log.read_text().splitlines()}
    assert not set(codec.EVENT_TYPES) - seen, "keep a further log that has them, see above"
    assert seen <= set(codec.EVENT_TYPES) | set(codec.UPCASTERS)


def test_no_further_struct_of_the_state_outgrows_the_short_head_of_a_map():
    """msgspec takes a longer head from 16 fields on, also where few are written, which would change the digest of every log that has one."""
    seen: dict[str, int] = {}

    def look(kind: Any) -> None:
        if isinstance(kind, inspect.StructType):
            if kind.cls.__name__ in seen:
                return
            seen[kind.cls.__name__] = len(kind.fields)
            for field in kind.fields:
                look(field.type)
        for name in ("type", "item_type", "item_types", "types", "key_type", "value_type"):
            inner = getattr(kind, name, ())
            for one in inner if isinstance(inner, tuple) else (inner,):
                look(one)

    for struct in (Stored, Worker):  # workers lie in it as bytes, in the short form (`_compact` in core/cluster.py)
        look(inspect.type_info(struct))
    assert {"Attempt", "Callback", "Device", "Need"} < seen.keys()
    assert {name for name, fields in seen.items() if fields > 15} == {"Stored", "Task", "Worker"}


def from_the_simulation(seed: str) -> list[tuple[str, bytes]]:
    """A random history of the simulation, without a seed one with enough trouble to hold all that it ever has."""
    from tests.simulation.world import TAILS, run_history

    histories = [run_history(int(seed), may_lose=TAILS)] if seed else [run_history(seed) for seed in range(60)]
    logs = [history.server.state.entries for history in histories]
    richest = max(logs, key=lambda entries: len({entry.type for entry in entries}))
    return [(entry.id, entry.payload) for entry in richest]


def written_down() -> list[tuple[str, bytes]]:
    """The history of what the simulation never has."""
    from tests.golden.rows_engines_receivers import history_of_them

    return [(id, codec.encode(event)) for id, event in history_of_them().entries]


def keep(name: str, seed: str = "") -> None:
    entries = written_down() if name.startswith("rows_engines_receivers") else from_the_simulation(seed)
    lines = [f'["{id}",{payload.decode()}]' for id, payload in entries]
    cluster = fold(lines)
    with (FOLDER / f"{name}.jsonl").open("x") as file:
        file.write("\n".join(lines) + "\n")
    summary = {"entries": len(lines), "tasks": cluster.counts(), "digest": cluster.digest()}
    (FOLDER / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    keep(*sys.argv[1:])
