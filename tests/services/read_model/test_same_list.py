"""A list from the read model and what changed since is the list from memory, whatever happened, wherever either of them stands."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core import cluster as clusters
from mloc.core.cluster import Cluster
from mloc.core.codec import decode
from mloc.core.fold import evolve
from mloc.services.intake.task_query import SORTS, QueryError, TaskQuery
from mloc.services.log.event_log import Entry
from mloc.services.read_model import plan
from mloc.services.read_model import reader as readers
from mloc.services.read_model.gathering import Gathering
from mloc.services.read_model.paging import encode_cursor
from mloc.services.read_model.reader import Reader
from mloc.services.read_model.recent_changes import RecentChanges
from mloc.services.read_model.task_index import find_in_memory
from mloc.services.read_model.writer import Writer
from tests.services.read_model.random_histories import IN_MEMORY, random_history

PHASE_SETS = (
    None, frozenset({"published"}), frozenset({"dead_lettered", "cancelled", "timed_out"}), frozenset({"waiting", "ready", "backoff", "lost"}),
)  # fmt: skip
QUERIES = st.builds(
    TaskQuery,
    phases=st.sampled_from(PHASE_SETS),
    kind=st.sampled_from(["", "", "echo", "Echo", "SFTTask", "nothing"]),
    owner=st.sampled_from(["", "", "ada", "bo", "nobody"]),
    project=st.sampled_from(["", "", "x"]),
    worker=st.sampled_from(["", "", "w1"]),
    parent=st.sampled_from(["", "none", "none", "p1", "p3"]),
    labels=st.sampled_from([(), (), (("team", "a"),), (("team", "b"), ("run", "1")), (("team", "c"),)]),
    since_ms=st.sampled_from([0, 0, 1_700_000_005_000]),
    sort=st.sampled_from(SORTS),
    page=st.integers(1, 4),
    page_size=st.sampled_from([1, 3, 50]),
)


def projected(path: Path, entries: list[Entry], chance: random.Random) -> Writer:
    """Written in stretches of any length."""
    gathering, writer = Gathering(Cluster(), {}), Writer(path)
    gathering.start()
    for number, entry in enumerate(entries, 1):
        gathering.fold(entry)
        if number == len(entries) or chance.random() < 0.1:
            state = gathering.cluster
            writer.write(gathering.take(), replace(writer.cursor, log_id=state.log_id, position=state.position, is_complete=True))
    return writer


def folded(entries: list[Entry], changes: RecentChanges | None = None) -> Cluster:
    state = Cluster()
    for number, entry in enumerate(entries):
        evolve(state, entry.id, decode(entry.type, entry.payload))
        if changes is not None and number % 7 == 3:
            changes.note(state)
    return state


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6), queries=st.lists(QUERIES, min_size=3, max_size=12), cut=st.floats(0, 1),
    kept=st.sampled_from([0, 5, 1000]), sorted_at_once=st.sampled_from([0, 8_000]), scanned_at_once=st.sampled_from([2, 20_000]),
    follows=st.booleans(),
)  # fmt: skip
def test_every_filter_order_and_page_gives_the_list_that_a_memory_without_end_would_give(
    seed: int, queries: list[TaskQuery], cut: float, kept: int, sorted_at_once: int, scanned_at_once: int, follows: bool
) -> None:
    with TemporaryDirectory(dir=IN_MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        # given a history of which the tables have the first part, and a memory that has forgotten ended tasks
        history = random_history(seed)
        entries = history.entries
        at = max(1, int(len(entries) * cut)) if follows else len(entries)
        patch.setattr(plan, "SORTED_AT_ONCE", sorted_at_once)
        patch.setattr(readers, "SCANNED_AT_ONCE", scanned_at_once)
        writer = projected(Path(folder) / "model", entries[:at], random.Random(seed))
        endless = folded(entries)
        patch.setattr(clusters, "KEEP_ENDED", kept)
        changes = RecentChanges(lambda: writer.cursor.position)
        memory = folded(entries, changes)
        reader = Reader(Path(folder) / "model")
        # when asked for a page
        for query in queries:
            overlay = changes.since(memory, writer.cursor.position)
            _, page = reader.find(query, overlay)
            # then it is the one of a memory that forgets nothing, and so is the next one
            expected = find_in_memory(endless, query)
            assert [task.id for task in page.tasks] == [task.id for task in expected.tasks]
            assert page.tasks == expected.tasks
            assert (page.total, page.next_cursor) == (expected.total, expected.next_cursor)
            if page.next_cursor:
                following = replace(query, cursor=page.next_cursor)
                assert reader.find(following, overlay)[1] == find_in_memory(endless, following)
        writer.close()
        reader.close()


def test_a_cursor_of_another_list_is_refused() -> None:
    cursor = encode_cursor(TaskQuery(owner="ada"), (-5,))
    for query in (TaskQuery(owner="bo", cursor=cursor), TaskQuery(owner="ada", sort="name", cursor=cursor), TaskQuery(cursor="nonsense")):
        with pytest.raises(QueryError, match="cursor"):
            find_in_memory(Cluster(), query)
