"""Old logs replay for ever: each golden log folds to the digest that it had when it was kept.

A log is added when events or the fold change; none is ever rewritten. `python -m tests.golden.test_old_logs NAME` keeps a new one: the history of
`rows_engines_receivers.py` where the name begins like that, else one of the simulation.
"""

import json
import sys
from pathlib import Path

import pytest

from mloc.core import codec
from mloc.core.cluster import Cluster
from mloc.core.events import Event
from mloc.core.fold import evolve

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


def from_the_simulation() -> list[tuple[str, bytes]]:
    """A random history of the simulation with enough trouble to hold all that it ever has."""
    from tests.simulation.world import run_history

    histories = [run_history(seed).server.state.entries for seed in range(60)]
    richest = max(histories, key=lambda entries: len({entry.type for entry in entries}))
    return [(entry.id, entry.payload) for entry in richest]


def written_down() -> list[tuple[str, bytes]]:
    """The history of what the simulation never has."""
    from tests.golden.rows_engines_receivers import history_of_them

    return [(id, codec.encode(event)) for id, event in history_of_them().entries]


def keep(name: str) -> None:
    entries = written_down() if name.startswith("rows_engines_receivers") else from_the_simulation()
    lines = [f'["{id}",{payload.decode()}]' for id, payload in entries]
    cluster = fold(lines)
    with (FOLDER / f"{name}.jsonl").open("x") as file:
        file.write("\n".join(lines) + "\n")
    summary = {"entries": len(lines), "tasks": cluster.counts(), "digest": cluster.digest()}
    (FOLDER / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    keep(sys.argv[1])
