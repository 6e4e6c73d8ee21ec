"""Uploads to the API and downloads from it, as tests make them."""

from __future__ import annotations

import hashlib
import os

from mloc.services.artifacts.digests import repr_digest
from tests.services.intake.conftest import Api

CONTENT = os.urandom(300_000)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def announced(content: bytes) -> dict[str, str]:
    return {"Repr-Digest": repr_digest(sha(content))}


async def put(api: Api, task: str, name: str, content: bytes = CONTENT, status: int = 201, query: str = "", **headers: str) -> dict:
    response = await api.post(f"/api/v1/results/{task}/files/{name}{query}", content, headers=headers)
    assert response.status == status, await response.text()
    return await response.json()


async def got(api: Api, path: str, status: int = 200, **headers: str) -> bytes:
    response = await api.get(path, headers=headers)
    assert response.status == status, await response.text()
    return await response.read()
