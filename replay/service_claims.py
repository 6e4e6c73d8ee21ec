"""What each service says of itself: its newest good snapshot in the state folder."""

from __future__ import annotations

from mloc.replay.verify import Claim
from mloc.services.log import snapshots
from mloc.services.settings import Settings

FOLDER = "snapshots"
REQUIRABLE = ("scheduler", "aggregator")  # those that keep a state


def newest(settings: Settings) -> list[Claim]:
    """A claim for each service that has a snapshot; damaged ones are passed over."""
    folder = settings.state_dir / FOLDER
    services = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = ((name, snapshots.newest_good(folder, name)) for name in services)
    return [Claim(name, said.header.id, said.header.state_digest, said.body) for name, said in found if said is not None]
