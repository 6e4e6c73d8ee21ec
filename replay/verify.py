"""Proof that the state which the services hold is the one that the log gives: fold it anew, to exactly where each of them stood, and compare."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from mloc.core import log_ids
from mloc.core.cluster import Cluster, from_bytes
from mloc.replay.entries import entries
from mloc.replay.rebuild import LogDamaged, OnProgress, Rebuilt, collector_off
from mloc.services.log.event_log import Entry, EventLog

MOST_DIFFERENCES = 5  # shown


class Claim(Struct, frozen=True, gc=False):
    """What a service says of itself: at this position its state has this digest. `state` is the snapshot's own, to see what differs."""

    service: str
    position: str
    digest: str
    state: bytes = b""


class Verdict(Struct, frozen=True, omit_defaults=True):
    """One claim compared. `differs` names the first differing tasks and values."""

    service: str
    position: str
    claimed: str
    rebuilt: str = ""
    same: bool = False
    behind: int = 0  # entries after the claim's position
    differs: tuple[str, ...] = ()


class Verified(Struct, frozen=True):
    """The whole check. `problems` are what is wrong with the log itself."""

    events: int
    seconds: float
    position: str
    digest: str
    encoding_holds: bool
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]
    unknown: int
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        said = bool(self.verdicts) and all(verdict.same for verdict in self.verdicts)
        return said and self.encoding_holds and not self.missing and not self.unknown and not self.problems


async def verify(log: EventLog, claims: Sequence[Claim], required: Sequence[str] = (), on_progress: OnProgress | None = None) -> Verified:
    """Fold the log once, stopping at each claim on the way. Raises LogUnavailable."""
    rebuilt = Rebuilt()
    waiting = sorted(claims, key=lambda claim: log_ids.key(claim.position))
    verdicts: list[tuple[Verdict, int]] = []
    problems: list[str] = []
    previous = log_ids.START
    began = time.perf_counter()
    with collector_off():
        try:
            async for batch in entries(log):
                for entry in batch:
                    while waiting and log_ids.before(waiting[0].position, entry.id):
                        verdicts.append((_compare(waiting.pop(0), rebuilt.cluster), rebuilt.events))
                    problems += _out_of_order(previous, entry)
                    previous = entry.id
                    rebuilt.fold(entry)
                if on_progress:
                    on_progress(rebuilt.events, batch[-1].id)
        except LogDamaged as error:
            problems.append(str(error))
    verdicts += [(_compare(claim, rebuilt.cluster), rebuilt.events) for claim in waiting]
    if not rebuilt.events:
        problems.append("the log is empty")
    spoken_for = {claim.service for claim in claims}
    return Verified(
        rebuilt.events, round(time.perf_counter() - began, 4), rebuilt.cluster.position, rebuilt.cluster.digest(), _encoding_holds(rebuilt.cluster),
        tuple(msgspec.structs.replace(verdict, behind=rebuilt.events - at) for verdict, at in verdicts),
        tuple(name for name in required if name not in spoken_for), rebuilt.cluster.unknown, tuple(problems),
    )  # fmt: skip


def _out_of_order(previous: str, entry: Entry) -> Iterator[str]:
    if not log_ids.before(previous, entry.id):
        yield f"entry {entry.id} follows {previous}: ids must grow"


def _compare(claim: Claim, cluster: Cluster) -> Verdict:
    digest = cluster.digest()
    if cluster.position != claim.position:
        where = "ends before it: the log lost its tail" if log_ids.before(cluster.position, claim.position) else "has no such entry"
        return Verdict(claim.service, claim.position, claim.digest, digest, differs=(f"it stood at {claim.position}, but the log {where}",))
    same = digest == claim.digest
    return Verdict(claim.service, claim.position, claim.digest, digest, same, differs=() if same else tuple(_differences(claim, cluster)))


def _differences(claim: Claim, cluster: Cluster) -> Iterator[str]:
    try:
        theirs = from_bytes(claim.state)
    except (msgspec.MsgspecError, ValueError) as error:
        yield f"its snapshot cannot be read: {error}"
        return
    if theirs.digest() != claim.digest:
        yield "its snapshot does not hold the state whose digest it names"
    found = [*_table_differences("task", theirs.tasks, cluster.tasks), *_table_differences("worker", theirs.workers, cluster.workers)]
    yield from found[:MOST_DIFFERENCES]
    if len(found) > MOST_DIFFERENCES:
        yield f"and {len(found) - MOST_DIFFERENCES:,} more"
    if not found:
        ours, said = cluster.stored(), theirs.stored()
        names = [field for field in ours.__struct_fields__ if getattr(ours, field) != getattr(said, field)]
        yield f"in {', '.join(names) or 'nothing that is kept in a snapshot'}"


def _table_differences(kind: str, theirs: Mapping[str, Struct], ours: Mapping[str, Struct]) -> Iterator[str]:
    for id in sorted({*theirs, *ours}):
        a, b = theirs.get(id), ours.get(id)
        if a == b:
            continue
        if a is None or b is None:
            yield f"{kind} {id} is only in {'the log' if a is None else 'its state'}"
            continue
        fields = [name for name in a.__struct_fields__ if getattr(a, name) != getattr(b, name)]
        shown = "; ".join(f"{name} {getattr(a, name)!r}, by the log {getattr(b, name)!r}" for name in fields[:3])
        yield f"{kind} {id}: {shown}"


def _encoding_holds(cluster: Cluster) -> bool:
    """Whether the state comes back from its bytes as it was."""
    return from_bytes(cluster.to_bytes()).digest() == cluster.digest()
