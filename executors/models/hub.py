"""The hub that models and datasets come from, where it cannot be reached: known within seconds, and said with what helps.

huggingface_hub asks a host that cannot be connected to six times for each file, half a minute of pauses in each round, and goes on to the next
file. Here it is told at once that this is so, as it is where it is offline: then it takes what is in its cache, else it fails. What a hub
answers (429, 5xx) is still asked for again, by the library and by later attempts.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from mloc.executors.contract import ExecutorError

CONNECT_SEC = 5.0  # for one connection
PATIENCE_SEC = 6.0  # a name server or a network that is away for a moment
PAUSE_SEC = 1.0
BUSY = (408, 429)
KNOWN_SEC = 5.0  # for so long nothing else is asked of a host that was away; a later attempt asks again

_lock = threading.Lock()
_away: dict[str, tuple[float, str]] = {}  # host → (until when, why)
_is_watched = False


def watch_hub() -> None:
    """From now on this process gives up a hub that cannot be reached within seconds. Before anything is asked of it."""
    global _is_watched
    with _lock:
        if _is_watched or importlib.util.find_spec("huggingface_hub") is None:
            return
        _is_watched = True
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def watched() -> Any:
        client = default_client_factory()
        send = client.send
        client.send = lambda request, **given: _sent(send, request, given)
        return client

    set_client_factory(watched)


def hub_trouble(named: str, error: BaseException) -> ExecutorError | None:
    """What a person is told where `error` comes of a hub that could not be reached, or that could not answer now; None for another one."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return None
    from huggingface_hub import constants

    if (status := _status(error)) in BUSY or status >= 500:
        return ExecutorError("HubBusy", f"the hub at {constants.ENDPOINT} answers {status} for {named!r}", retryable=True)
    if (why := _why(error)) is None:
        return None
    said = f"{named!r} is not in the worker's cache, and the hub at {constants.ENDPOINT} cannot be reached ({why})"
    helps = "name a folder (type local), or bring it into the worker's cache before and set HF_HUB_OFFLINE=1 there, or a mirror as HF_ENDPOINT"
    said += f". If the worker is to do without it, {helps}; else see to its network, DNS or proxy"
    return ExecutorError("HubUnreachable", said, retryable=True)


def _sent(send: Any, request: Any, given: dict[str, Any]) -> Any:
    """The answer; raises OfflineModeIsEnabled where there is no connection."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    host, began = str(request.url.host), time.monotonic()
    until, why = _away.get(host, (0.0, ""))
    if began < until:
        raise OfflineModeIsEnabled(why)
    limits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {**limits, "connect": min(limits.get("connect") or CONNECT_SEC, CONNECT_SEC)}
    while True:
        try:
            return send(request, **given)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            why = f"{host}: {str(error) or type(error).__name__}"
            if time.monotonic() - began + PAUSE_SEC > PATIENCE_SEC:
                _away[host] = (time.monotonic() + KNOWN_SEC, why)
                raise OfflineModeIsEnabled(why) from error
        except httpx.ReadTimeout as error:
            if request.method != "HEAD":  # a download, which is gone on with
                raise
            why = f"{host} did not answer in time"
            _away[host] = (time.monotonic() + KNOWN_SEC, why)
            raise OfflineModeIsEnabled(why) from error
        time.sleep(PAUSE_SEC)


def _status(error: BaseException) -> int:
    """Of the answer that it comes of; 0 where there was none."""
    return next((one.response.status_code for one in _chain(error) if getattr(one, "response", None) is not None), 0)


def _why(error: BaseException) -> str | None:
    """The reason at the bottom of it."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    no_way = (OfflineModeIsEnabled, httpx.NetworkError, httpx.TimeoutException, httpx.ProxyError)
    found = next((str(one) or type(one).__name__ for one in _chain(error) if isinstance(one, no_way)), None)
    if found is None and isinstance(error, ConnectionError):  # datasets says it without its cause
        return next((why for until, why in _away.values() if time.monotonic() < until), None)
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
