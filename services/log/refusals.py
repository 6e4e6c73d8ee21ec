"""What both event logs say when they refuse a call, in words for a person."""

from __future__ import annotations

from mloc.services.log.event_log import BacklogFull, Fenced, IncarnationLost, KeyConflict, LeaseHeld, ServerChanged, WorkerRefused


def key_conflict(key: str) -> KeyConflict:
    return KeyConflict(f"the idempotency key {key!r} was used before, with another body: use a new key for new work")


def backlog_full(open_tasks: int, count: int, limit: int) -> BacklogFull:
    return BacklogFull(f"{open_tasks} tasks have not ended yet, and with {count} more they would exceed the limit of {limit}: submit again later")


def lease_held(service: str, holder: str, left_ms: int) -> LeaseHeld:
    return LeaseHeld(f"{holder} leads the service {service}, for at least {left_ms} ms more")


def fenced(service: str, epoch: int) -> Fenced:
    return Fenced(f"epoch {epoch} of the service {service} is over: another leader has taken the lease")


def worker_refused(worker: str, left_ms: int) -> WorkerRefused:
    return WorkerRefused(
        f"another worker with the id {worker} is alive (heard of for at least {left_ms} ms more): "
        "give each worker an id of its own (WORKER_ID), or wait until the other one is declared lost"
    )


def incarnation_lost(worker: str, incarnation: int) -> IncarnationLost:
    return IncarnationLost(f"incarnation {incarnation} of worker {worker} is over: it was declared lost, retired or replaced; register anew")


def incarnation_old(worker: str, incarnation: int, newest: int) -> IncarnationLost:
    return IncarnationLost(f"incarnation {incarnation} of worker {worker} is not newer than {newest}, which the log knows: register a newer one")


def server_changed(run_id: str) -> ServerChanged:
    return ServerChanged(f"another run of the server ({run_id}) serves the event log now: what was agreed with the one before is made anew")
