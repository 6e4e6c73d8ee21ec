"""Which attempt holds which device or slot: the last guard, which starts nothing on a device that is in use. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mloc.core.events import Device
from mloc.core.needs.engine_key import is_shared
from mloc.services.worker.attempt import Attempt, AttemptKey


class DeviceTable:
    """A device is one attempt's, or shared: by attempts whose stated memory fits side by side, or by those that join the batch of one engine.
    An attempt without a device that is not light holds one of `slots`; light ones hold nothing."""

    def __init__(self, slots: int, devices: Iterable[Device] = ()) -> None:
        self.slots = slots
        self._size = {device.index: device.memory for device in devices}
        self._holders: dict[int, dict[AttemptKey, Attempt]] = {}
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
                if wanted.isdisjoint(attempt.devices) and self._has_room(attempt):
                    for device in attempt.devices:
                        self._holders.setdefault(device, {})[attempt.key] = attempt
                    taken.append(attempt)
                else:
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
            self._holders.get(device, {}).pop(attempt.key, None)

    def holders(self, device: int) -> list[AttemptKey]:
        return list(self._holders.get(device, ()))

    def _has_room(self, attempt: Attempt) -> bool:
        needed = attempt.dispatch.device_memory
        for device in attempt.devices:
            if holders := self._holders.get(device):
                used = [holder.dispatch.device_memory for holder in holders.values()]
                shared = needed and all(used) and sum(used) + needed <= self._size.get(device, 0)
                if not shared and not all(_may_join(attempt, holder) for holder in holders.values()):
                    return False
        return True


def _may_join(attempt: Attempt, holder: Attempt) -> bool:
    """Whether both are answered by one engine, that has all of their devices, and the holder is not to end: its host may have to be killed."""
    alike = attempt.devices == holder.devices and attempt.dispatch.engine == holder.dispatch.engine
    whole = not attempt.dispatch.device_memory and not holder.dispatch.device_memory
    return attempt.joins and alike and whole and is_shared(attempt.dispatch.engine) and holder.stop_reason is None
