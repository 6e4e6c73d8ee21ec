"""What each service says of itself: its newest good snapshot in the state folder."""

from __future__ import annotations

from mloc.replay.verify import Claim
from mloc.services.settings import Settings

REQUIRABLE = ("scheduler", "aggregator", "metrics")


def newest(settings: Settings) -> list[Claim]:
    """A claim for each service that has a snapshot."""
    return []
