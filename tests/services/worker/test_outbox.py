"""The outbox: every report is in the log once, in order, whatever happens to the calls and to the worker."""

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from worker_world import FaultyLog, MemoryStore

from mloc.core import codec
from mloc.core.events import AttemptStopped, EngineReady, HeldAttempt
from mloc.services.clock import SystemClock
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.worker.ledger import Ledger
from mloc.services.worker.outbox import Outbox


def put(outbox: Outbox, number: int, *, precious: bool) -> None:
    held = HeldAttempt(f"t{number}", 1)
    event = AttemptStopped(task=f"t{number}", attempt=1, worker="w1", incarnation=outbox.incarnation, seq=outbox.next_seq)
    outbox.put(event, held=held, precious=precious)


async def sent(outbox: Outbox, log: FaultyLog, seconds: float = 5) -> None:
    """Send until the outbox is empty."""
    sending = asyncio.ensure_future(outbox.send_forever(log, SystemClock()))  # type: ignore[arg-type]
    try:
        await asyncio.wait_for(outbox.empty.wait(), seconds)
    finally:
        sending.cancel()


@settings(max_examples=40, deadline=None)
@given(
    incarnations=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    faults=st.lists(st.sampled_from(["before", "after"]), max_size=4),
    crash_after=st.integers(0, 20),
)
def test_reports_are_in_the_log_once_and_in_order_over_incarnations_faults_and_a_crash(
    incarnations: list[int], faults: list[str], crash_after: int
) -> None:
    async def history() -> None:
        server = MemoryServer(lambda: int(time.time() * 1000))
        log, store = FaultyLog(MemoryLog(server)), MemoryStore()
        for when in faults:
            log.fail("report", when=when)
        ledger = Ledger(store)
        await ledger.name("w1", "nonce")
        outbox = Outbox("w1", ledger, lambda ids: None)
        expected: list[str] = []
        for incarnation, count in enumerate(incarnations, 1):
            outbox.begin(incarnation)
            for _ in range(count):
                put(outbox, len(expected), precious=True)
                expected.append(f"t{len(expected)}")
        sending = asyncio.ensure_future(outbox.send_forever(log, SystemClock()))  # type: ignore[arg-type]
        for _ in range(crash_after):
            await asyncio.sleep(0)
        sending.cancel()
        kept = [held.task for held in outbox.unacknowledged()]
        await sent(outbox, log)
        entries = await log.log.read("0-0", count=1000)
        events = [codec.decode(entry.type, entry.payload) for entry in entries]
        assert [event.task for event in events if isinstance(event, AttemptStopped)] == expected
        assert kept == expected[len(expected) - len(kept) :]
        assert outbox.unacknowledged() == []
        assert Ledger(MemoryStore(store.content)).reports == {}

    asyncio.run(history())


async def test_after_a_crash_precious_reports_are_sent_by_the_next_life_with_their_own_numbers() -> None:
    server = MemoryServer(lambda: int(time.time() * 1000))
    log, store = FaultyLog(MemoryLog(server)), MemoryStore()
    ledger = Ledger(store)
    first = Outbox("w1", ledger, lambda ids: None)
    first.begin(4)
    first.put(EngineReady(worker="w1", incarnation=4, engine="e"))
    put(first, 1, precious=True)
    log.fail("report", times=100)
    sending = asyncio.ensure_future(first.send_forever(log, SystemClock()))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not ledger.reports:
            await asyncio.sleep(0)
    sending.cancel()
    log.faults.clear()
    second = Outbox("w1", Ledger(MemoryStore(store.content)), lambda ids: None)
    assert second.unacknowledged() == [HeldAttempt("t1", 1)]
    await sent(second, log)
    entries = await log.log.read("0-0")
    events = [codec.decode(entry.type, entry.payload) for entry in entries]
    (late,) = [event for event in events if isinstance(event, AttemptStopped)]
    assert (late.incarnation, late.seq) == (4, 2)
