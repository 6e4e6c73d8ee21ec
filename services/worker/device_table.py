"""Which attempt holds which device or slot: the last guard, which starts nothing on a device that is in use. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mloc.services.worker.attempt import Attempt, AttemptKey


class DeviceTable:
    """Devices are held exclusively; an attempt without a device that is not light holds one of `slots`; light ones hold nothing."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._devices: dict[int, AttemptKey] = {}
        self._in_slots: set[AttemptKey] = set()

    def take_those_with_room(self, waiting: Iterable[Attempt]) -> list[Attempt]:
        """Of attempts in the order in which they came, those that may start now; what they need is theirs from here on.

        None overtakes another that waits for the same device or for a slot.
        """
        taken: list[Attempt] = []
        wanted: set[int] = set()
        slots_wanted = False
        for attempt in waiting:
            if attempt.devices:
                if wanted.isdisjoint(attempt.devices) and self._devices.keys().isdisjoint(attempt.devices):
                    self._devices.update(dict.fromkeys(attempt.devices, attempt.key))
                    taken.append(attempt)
                wanted.update(attempt.devices)
            elif not slots_wanted and len(self._in_slots) < self.slots:
                self._in_slots.add(attempt.key)
                taken.append(attempt)
            else:
                slots_wanted = True
        return taken

    def release(self, attempt: Attempt) -> None:
        """The attempt is over on this worker. Releasing twice does nothing."""
        self._in_slots.discard(attempt.key)
        for device in attempt.devices:
            if self._devices.get(device) == attempt.key:
                del self._devices[device]

    def holder(self, device: int) -> AttemptKey | None:
        return self._devices.get(device)

    def free_slots(self) -> int:
        return self.slots - len(self._in_slots)
