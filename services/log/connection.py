"""From the settings to the event log: what every service, command, the console and replay open first."""

from __future__ import annotations

from redis.exceptions import RedisError

from mloc.services.log.event_log import EventLog
from mloc.services.log.redis_log import RedisLog
from mloc.services.server.address import NoServerError, event_log_url, shown_url
from mloc.services.settings import Settings


def open_log(settings: Settings, name: str = "mloc", *, patience_sec: float = 5.0) -> EventLog:
    """The log at REDIS_URL, else in the embedded server of the state folder; `name` is how the server lists this client.

    Nothing is sent yet: a call that finds no server for `patience_sec` raises LogUnavailable. One log object belongs to one service,
    observer or worker; close it in the end. Raises NoServerError where there is nothing to connect to.
    """
    url = event_log_url(settings)
    try:
        return RedisLog(url, settings.mloc_namespace, patience_sec=patience_sec, name=name)
    except (ValueError, RedisError) as error:
        raise NoServerError(f"REDIS_URL={shown_url(url)} cannot be used: {error}") from error
