"""What was uploaded and nobody came back for goes, every so often."""

from __future__ import annotations

import asyncio
import time

import structlog

from mloc.services.artifacts import inputs
from mloc.services.intake.http.api_state import ApiState

LONGEST_PAUSE_SEC = 3600.0


async def expire_uploads(state: ApiState) -> None:
    """Until it is cancelled: unfinished uploads, content without a place, inputs that no task names."""
    say, kept_sec = structlog.get_logger(), state.settings.upload_expire_sec
    while True:
        try:
            number = await asyncio.to_thread(inputs.expire, state.results_dir, time.time() - kept_sec)
            more, freed = await asyncio.to_thread(state.uploading.store.expire, kept_sec)
            if number + more:
                say.info("uploads that nobody came back for are gone", files=number + more, freed_bytes=freed)
        except OSError as error:
            say.warning("uploads that nobody came back for cannot be removed", error=str(error))
        await asyncio.sleep(min(LONGEST_PAUSE_SEC, kept_sec / 4))
