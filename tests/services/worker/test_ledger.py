"""The ledger: what a worker knows after a crash at any byte."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mloc.core.events import HeldAttempt
from mloc.services.worker.ledger import HostStarted, Ledger, LedgerError, ReportKept
from mloc.services.worker.ledger_file import open_ledger


class MemoryStore:
    """A ledger store that remembers every byte."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    @property
    def size(self) -> int:
        return len(self.content)

    def load(self) -> bytes:
        return self.content

    async def append(self, lines: bytes, *, sync: bool) -> None:
        self.content += lines

    async def rewrite(self, content: bytes) -> None:
        self.content = content


async def _some_life(ledger: Ledger) -> None:
    await ledger.name("w1", "nonce")
    await ledger.begin(3)
    await ledger.host_started(HostStarted(10, "100"))
    await ledger.host_started(HostStarted(11, "101"))
    await ledger.host_gone(10)
    await ledger.keep([ReportKept(3, seq, "AttemptSucceeded", Raw(b"{}"), HeldAttempt("t", seq)) for seq in (1, 2, 3)])
    await ledger.acknowledge(3, 2)


async def test_a_ledger_read_again_shows_hosts_that_live_and_reports_that_are_not_acknowledged() -> None:
    store = MemoryStore()
    await _some_life(Ledger(store))
    again = Ledger(store)
    assert (again.worker, again.nonce, again.incarnation) == ("w1", "nonce", 3)
    assert list(again.hosts) == [11]
    assert list(again.reports) == [(3, 3)]


@given(st.integers(0, 2000))
def test_a_ledger_cut_at_any_byte_can_be_read_and_goes_on(cut: int) -> None:
    async def life() -> None:
        store = MemoryStore()
        await _some_life(Ledger(store))
        torn = Ledger(MemoryStore(store.content[:cut]))
        await torn.tidy()
        await torn.begin(9)
        assert Ledger(torn._store).incarnation == 9

    asyncio.run(life())


async def test_tidying_keeps_what_matters() -> None:
    store = MemoryStore()
    ledger = Ledger(store)
    await _some_life(ledger)
    before = len(store.content)
    await ledger.tidy()
    again = Ledger(store)
    assert len(store.content) < before
    assert (again.hosts, again.reports, again.nonce) == (ledger.hosts, ledger.reports, "nonce")


def test_a_ledger_with_a_foreign_line_is_refused_with_advice() -> None:
    with pytest.raises(LedgerError, match=r"line 1 .* move its folder away"):
        Ledger(MemoryStore(b"not json\n"))


async def test_a_worker_without_a_name_keeps_the_one_that_was_made_for_its_folder(tmp_path: Path) -> None:
    first, file = await open_ledger(tmp_path, None)
    await first.begin(7)
    file.close()
    second, file = await open_ledger(tmp_path, None)
    assert (second.worker, second.nonce, second.incarnation) == (first.worker, first.nonce, 7)
    file.close()


async def test_a_second_worker_in_the_same_folder_is_told_what_to_do(tmp_path: Path) -> None:
    _, file = await open_ledger(tmp_path, "w1")
    with pytest.raises(LedgerError, match="WORKER_ID"):
        await open_ledger(tmp_path, "w1")
    _, other = await open_ledger(tmp_path, "w2")
    file.close()
    other.close()


async def test_lines_written_after_a_rewrite_are_in_the_new_file(tmp_path: Path) -> None:
    ledger, file = await open_ledger(tmp_path, "w1")
    await ledger.begin(1)
    await ledger.tidy()
    await ledger.begin(2)
    file.close()
    again, file = await open_ledger(tmp_path, "w1")
    assert again.incarnation == 2
    file.close()
