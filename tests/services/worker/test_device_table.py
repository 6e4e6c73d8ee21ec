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
