"""Which server a command talks to, and one clear line where there is none."""

import asyncio
import re

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError

from mloc.services.server.record import find_server
from mloc.services.settings import Settings


class NoServerError(Exception):
    """There is no event log to talk to; the message says which one was meant and what to do."""


def event_log_url(settings: Settings) -> str:
    """REDIS_URL, else the embedded server of the state folder. Raises NoServerError."""
    url = settings.redis_url or find_server(settings.state_dir)
    if url is None:
        raise NoServerError(
            f"no event log found: REDIS_URL is not set and no `mloc up` runs with the state folder {settings.state_dir.resolve()}. "
            "Start `mloc up`, or set REDIS_URL, or run this where `mloc up` runs (ORCHESTRATOR_STATE_DIR)"
        )
    return url


async def check_reachable(url: str, patience_sec: float = 5.0) -> None:
    """Raises NoServerError unless a server answers at `url`, lets us in and (or will soon) has loaded its data."""
    try:
        client = redis.asyncio.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_connect_timeout=patience_sec)
    except (ValueError, RedisError) as error:
        raise NoServerError(f"REDIS_URL={shown_url(url)} cannot be used: {error}") from error
    try:
        await asyncio.wait_for(client.ping(), patience_sec)
    except BusyLoadingError:
        return
    except AuthenticationError as error:
        raise NoServerError(f"the server at {shown_url(url)} refuses the password: correct REDIS_URL ({error})") from error
    except (OSError, TimeoutError, RedisError) as error:
        reason = str(error).partition(". ")[0] or "no answer"
        raise NoServerError(
            f"nothing answers at REDIS_URL={shown_url(url)} ({reason}): start that server, correct REDIS_URL, "
            "or unset it to let `mloc up` start one"
        ) from error
    finally:
        await client.aclose()


def shown_url(url: str) -> str:
    """The URL with its password masked."""
    return re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", url)
