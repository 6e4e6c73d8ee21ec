"""What each worker holds: attempts, the devices, slots, cores and memory that they take, and which of them are not needed any more.

An index beside the workers; the attempts in it are frozen, and only the fold changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum

from msgspec.structs import replace

from mloc.core.events import Device, Need
from mloc.core.needs.engine_key import is_shared
from mloc.core.worker import Attempt, AttemptKey


class Holdings:
    """Attempts by worker. `unneeded` are those that should be recalled or stopped."""

    def __init__(self) -> None:
        self.by_worker: dict[str, dict[AttemptKey, Attempt]] = {}
        self.unneeded: dict[AttemptKey, str] = {}  # → worker
        self._light: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._devices: dict[str, dict[int, list[AttemptKey]]] = {}
        self._reserved: dict[str, dict[AttemptKey, tuple[float, int]]] = {}  # cores and bytes, of attempts whose tasks ask for some
        self._shared: dict[str, dict[AttemptKey, str]] = {}  # engine, of attempts that have their devices for one that takes several tasks

    def find(self, worker: str, key: AttemptKey) -> Attempt | None:
        held = self.by_worker.get(worker)
        return held.get(key) if held is not None else None

    def of(self, worker: str) -> dict[AttemptKey, Attempt]:
        return self.by_worker.get(worker, {})

    def all(self) -> Iterator[Attempt]:
        for held in self.by_worker.values():
            yield from held.values()

    def light(self, worker: str) -> int:
        """Light attempts that the worker holds."""
        return self._light.get(worker, 0)

    def slots(self, worker: str) -> int:
        """Attempts without a device, not light, that the worker holds."""
        return self._slots.get(worker, 0)

    def on_device(self, worker: str, device: int) -> list[AttemptKey]:
        return self._devices.get(worker, {}).get(device, [])

    def device_room(self, worker: str, device: Device, need: Need) -> bool:
        """Whether the device is free for this need: empty, or shared by stated memory that fits beside the others'."""
        holders = self.on_device(worker, device.index)
        if not holders:
            return True
        if not need.gpu_memory:
            return False
        memories = [self.by_worker[worker][key].device_memory for key in holders]
        return all(memories) and sum(memories) + need.gpu_memory <= device.memory

    def batches(self, worker: str, engine: str) -> Iterator[tuple[tuple[int, ...], int]]:
        """Devices on which the worker has that engine and nothing else, in the order of its host, and how many attempts are in its batch.

        Not those where one of them is to end: it may have to be killed with its host, and nobody else's attempt is to be in there.
        """
        seen = set[tuple[int, ...]]()
        for key, own in self._shared.get(worker, {}).items():
            devices = self.by_worker[worker][key].devices
            if own == engine and devices not in seen:
                seen.add(devices)
                together = {key for device in devices for key in self.on_device(worker, device)}
                if all(self._is_in_batch(worker, key, engine, devices) and not self._is_to_end(worker, key) for key in together):
                    yield devices, len(together)

    def reserved(self, worker: str) -> tuple[float, int]:
        """Cores and bytes of memory that the worker's attempts asked for."""
        asked = self._reserved.get(worker)
        return (fsum(cpu for cpu, _ in asked.values()), sum(memory for _, memory in asked.values())) if asked else (0.0, 0)

    def add(self, attempt: Attempt, need: Need | None) -> None:
        """`need` is that of the attempt's task, None where nothing is known of it."""
        key = (attempt.task, attempt.number)
        held = self.by_worker.get(attempt.worker)
        if held is None:
            held = self.by_worker[attempt.worker] = {}
        elif key in held:  # dispatched or listed twice under one number
            self.remove(attempt.worker, key)
        held[key] = attempt
        self._count(attempt, 1)
        for device in attempt.devices:
            self._devices.setdefault(attempt.worker, {}).setdefault(device, []).append(key)
        if need is not None and (need.cpu or need.memory) and not attempt.light:
            self._reserved.setdefault(attempt.worker, {})[key] = (need.cpu, need.memory)
        if need is not None and attempt.devices and not attempt.device_memory and is_shared(need.engine):
            self._shared.setdefault(attempt.worker, {})[key] = need.engine

    def remove(self, worker: str, key: AttemptKey) -> Attempt | None:
        held = self.by_worker.get(worker)
        attempt = held.pop(key, None) if held is not None else None
        if attempt is None:
            return None
        if self.unneeded and self.unneeded.get(key) == worker:
            del self.unneeded[key]
        self._count(attempt, -1)
        for device in attempt.devices:
            self._devices[worker][device].remove(key)
        if reserved := self._reserved.get(worker):
            reserved.pop(key, None)
        if shared := self._shared.get(worker):
            shared.pop(key, None)
        return attempt

    def clear(self, worker: str) -> list[Attempt]:
        """Take away all that a worker holds."""
        held = list(self.by_worker.get(worker, {}).items())
        return [attempt for key, attempt in held if self.remove(worker, key) is not None]

    def mark_started(self, attempt: Attempt) -> None:
        self.by_worker[attempt.worker][attempt.task, attempt.number] = replace(attempt, started=True)

    def mark_stop_asked(self, attempt: Attempt) -> None:
        self.by_worker[attempt.worker][attempt.task, attempt.number] = replace(attempt, stop_asked=True)

    def mark_unneeded(self, attempt: Attempt) -> None:
        self.unneeded[attempt.task, attempt.number] = attempt.worker

    def copy(self) -> Holdings:
        other = Holdings()
        other.by_worker = {worker: dict(held) for worker, held in self.by_worker.items()}
        other.unneeded, other._light, other._slots = dict(self.unneeded), dict(self._light), dict(self._slots)
        other._devices = {worker: {device: list(keys) for device, keys in devices.items()} for worker, devices in self._devices.items()}
        other._reserved = {worker: dict(asked) for worker, asked in self._reserved.items() if asked}
        other._shared = {worker: dict(engines) for worker, engines in self._shared.items() if engines}
        return other

    def _is_in_batch(self, worker: str, key: AttemptKey, engine: str, devices: tuple[int, ...]) -> bool:
        return self._shared.get(worker, {}).get(key) == engine and self.by_worker[worker][key].devices == devices

    def _is_to_end(self, worker: str, key: AttemptKey) -> bool:
        return self.by_worker[worker][key].stop_asked or self.unneeded.get(key) == worker

    def _count(self, attempt: Attempt, by: int) -> None:
        if attempt.light:
            self._light[attempt.worker] = self._light.get(attempt.worker, 0) + by
        elif not attempt.devices:
            self._slots[attempt.worker] = self._slots.get(attempt.worker, 0) + by
