"""The device table: the last guard before an attempt starts."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mloc.core.answers import Dispatch
from mloc.core.events import Device
from mloc.services.worker.attempt import Attempt
from mloc.services.worker.device_table import DeviceTable


def attempt(name: str, *devices: int, memory: int = 0) -> Attempt:
    return Attempt((name, 1), f"{name}-0", 1, Dispatch("sft", Raw(b"{}"), device_memory=memory), devices)


def test_an_attempt_on_a_device_in_use_waits_until_the_holder_is_released() -> None:
    table = DeviceTable(slots=1)
    first, second = attempt("a", 0), attempt("b", 0)
    assert table.take_those_with_room([first]) == [first]
    assert table.take_those_with_room([second]) == []
    table.release(first)
    assert table.take_those_with_room([second]) == [second]


def test_releasing_an_attempt_that_holds_nothing_frees_nothing_of_others() -> None:
    table = DeviceTable(slots=1)
    table.take_those_with_room([attempt("a", 0), attempt("b")])
    table.release(attempt("c", 0))
    assert table.holders(0) == [("a", 1)]
    assert table.take_those_with_room([attempt("d")]) == []


def test_none_overtakes_another_that_waits_for_the_same_device() -> None:
    table = DeviceTable(slots=1)
    table.take_those_with_room([attempt("a", 0)])
    both, one = attempt("both", 0, 1), attempt("one", 1)
    assert table.take_those_with_room([both, one]) == []


def test_attempts_share_a_device_as_long_as_their_stated_memory_fits() -> None:
    table = DeviceTable(1, [Device(0, "gpu", 80)])
    first, second, third = (attempt(name, 0, memory=40) for name in "abc")
    assert table.take_those_with_room([first, second, third]) == [first, second]
    table.release(first)
    assert table.take_those_with_room([attempt("all of it", 0)]) == []
    assert table.take_those_with_room([third]) == [third]


def sharing(name: str, *devices: int, engine: str = "one@1/vllm", joins: bool = True) -> Attempt:
    return Attempt((name, 1), f"{name}-0", 1, Dispatch("inference", Raw(b"{}"), engine=engine), devices, joins=joins)


def test_one_that_joins_shares_the_devices_of_the_engine_that_it_wants_all_of_them_and_no_other() -> None:
    table = DeviceTable(slots=1)
    first = sharing("a", 0, 1, joins=False)
    assert table.take_those_with_room([first]) == [first]
    others = (
        sharing("half", 0), sharing("turned", 1, 0), sharing("another", 0, 1, engine="other@2/vllm"), sharing("not asked to", 0, 1, joins=False),
        attempt("stated", 0, memory=1), attempt("whole", 1),
    )  # fmt: skip
    for other in others:
        assert table.take_those_with_room([other]) == []
    joining = sharing("b", 0, 1)
    assert table.take_those_with_room([joining]) == [joining]
    table.release(first)
    assert table.take_those_with_room([attempt("whole", 1)]) == []
    table.release(joining)
    assert table.take_those_with_room([sharing("c", 0, 1)])  # what it was to join has ended: it has them to itself


def test_an_engine_that_serves_one_task_at_a_time_is_not_joined() -> None:
    table = DeviceTable(slots=1)
    table.take_those_with_room([sharing("a", 0, engine="one@1")])
    assert table.take_those_with_room([sharing("b", 0, engine="one@1")]) == []


def test_nobody_joins_one_that_is_asked_to_stop_or_overtakes_one_that_waits() -> None:
    table = DeviceTable(slots=1)
    first, joining, whole = sharing("a", 0), sharing("b", 0), attempt("whole", 0)
    table.take_those_with_room([first])
    assert table.take_those_with_room([whole, joining]) == []
    first.stop_reason = "cancelled"
    assert table.take_those_with_room([joining]) == []
    table.release(first)
    assert table.take_those_with_room([joining]) == [joining]


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=3, unique=True), st.booleans()), max_size=30), st.integers(1, 3))
def test_no_device_and_no_slot_is_held_twice(steps: list[tuple[list[int], bool]], slots: int) -> None:
    table = DeviceTable(slots)
    waiting: list[Attempt] = []
    held: list[Attempt] = []
    for number, (devices, release) in enumerate(steps):
        if release and held:
            table.release(held.pop(0))
        waiting.append(attempt(f"t{number}", *devices))
        taken = table.take_those_with_room(waiting)
        waiting = [one for one in waiting if one not in taken]
        held += taken
        in_use = [device for one in held for device in one.devices]
        assert len(in_use) == len(set(in_use))
        assert sum(not one.devices for one in held) <= slots
