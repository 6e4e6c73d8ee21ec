"""What a person sets of the scheduler reaches its decisions."""

from mloc.core.decisions.scheduling import Limits
from mloc.services.scheduler import limits_of
from mloc.services.settings import load_settings


def test_the_times_and_the_dispatch_policy_of_the_environment_bound_the_decisions() -> None:
    settings = load_settings({"DISPATCH_POLICY": "round_robin", "HEARTBEAT_INTERVAL_SEC": "1", "HEARTBEAT_TTL_SEC": "7", "STOP_GRACE_SEC": "3"})
    assert limits_of(settings) == Limits(heartbeat_ttl_ms=7000, grace_sec=3.0, dispatch_policy="round-robin")
    assert limits_of(load_settings({})).dispatch_policy == Limits().dispatch_policy
