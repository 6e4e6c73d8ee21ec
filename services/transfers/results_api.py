"""The API as a worker uses it: where it is, what it is shown, and which files of a result it has."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct

from mloc.services.settings import Settings


class ApiAddress(Struct, frozen=True):
    """`base` without a slash at its end; `headers` hold the token and go to this address only."""

    base: str
    headers: dict[str, str] = {}

    def result(self, task: str) -> str:
        return f"{self.base}/api/v1/results/{quote(task, safe='')}"

    def file(self, task: str, name: str) -> str:
        """A file of a published result by its name below the result's folder."""
        return f"{self.result(task)}/files/{quote(name)}"

    def manifest(self, task: str) -> str:
        return f"{self.result(task)}/files"

    def left_files(self, task: str) -> str:
        """What its attempts left that says how far they were."""
        return f"{self.base}/api/v1/tasks/{quote(task, safe='')}/attempts/files"

    def attempt_file(self, task: str, attempt: int, name: str) -> str:
        """A file of an attempt by its name below the attempt's folder."""
        return f"{self.base}/api/v1/tasks/{quote(task, safe='')}/attempts/{attempt}/files/{quote(name)}"

    def input(self, sha256: str, name: str) -> str:
        """A file that was uploaded for tasks."""
        return f"{self.base}/api/v1/inputs/{sha256}/{quote(name, safe='')}"

    def has(self, url: str) -> bool:
        return url.startswith(self.base + "/")


def worker_api(settings: Settings) -> ApiAddress | None:
    """Where workers reach the API: ORCHESTRATOR_BASE_URL, else ORCHESTRATOR_URL; None where neither is set."""
    base = settings.orchestrator_base_url or settings.orchestrator_url
    if not base:
        return None
    token = settings.orchestrator_token
    return ApiAddress(base.rstrip("/"), {"Authorization": f"Bearer {token}"} if token else {})
