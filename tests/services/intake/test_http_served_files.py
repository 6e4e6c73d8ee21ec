"""GET …/files: what is served of a task's files."""

import json

import pytest

from mloc.services.artifacts.digests import repr_digest
from mloc.services.intake.http.routes import results
from tests.services.intake.conftest import Api
from tests.services.intake.file_requests import CONTENT, announced, got, put, sha


async def test_a_file_is_served_in_ranges_and_only_when_it_changed(api, task):
    await put(api, task, "model.tar", CONTENT)
    await put(api, task, "model.tar.gz", b"another file")
    url, tag = f"/api/v1/results/{task}/files/model.tar", f'"{sha(CONTENT)}"'
    response = await api.get(url, headers={"Accept-Encoding": "gzip"})
    assert await response.read() == CONTENT
    assert response.headers["ETag"] == tag
    assert response.headers["Repr-Digest"] == repr_digest(sha(CONTENT))
    assert "attachment" in response.headers["Content-Disposition"]
    assert await got(api, url, 304, **{"If-None-Match": tag}) == b""
    assert await got(api, url, 206, Range="bytes=5-9") == CONTENT[5:10]
    assert await got(api, url, 206, Range="bytes=-7") == CONTENT[-7:]
    assert await got(api, url, 206, Range="bytes=299990-", **{"If-Range": tag}) == CONTENT[299990:]
    assert await got(api, url, 200, Range="bytes=5-9", **{"If-Range": '"another"'}) == CONTENT
    for asked in (f"bytes={len(CONTENT)}-", "bytes=-0", "bytes=9-2"):
        response = await api.get(url, headers={"Range": asked})
        assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")
    assert await got(api, url, 200, Range="lines=1-2") == CONTENT  # another unit says nothing to us
    response = await api.client.head(url)
    assert (response.status, response.headers["Content-Length"], await response.read()) == (200, str(len(CONTENT)), b"")
    await put(api, task, 'a"b.html', b"<script>")
    response = await api.get(f"/api/v1/results/{task}/files/a%22b.html")
    assert response.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%22b.html"


async def test_the_manifest_says_which_declared_artifacts_are_there(api):
    text = json.dumps({
        "apiVersion": "mloc/v1", "kind": "EchoTask", "metadata": {"name": "x"},
        "spec": {"taskType": "echo", "data": ["a"], "output": {"artifacts": ["final_model", "*.json", "missing.bin"]}},
    })  # fmt: skip
    id = (await api.submit(text))["task_id"]
    await put(api, id, "final_model/config.txt", b"{}")
    await put(api, id, "batch_summary.json", b"{}")
    manifest = (await (await api.get(f"/api/v1/results/{id}/files")).json())["manifest"]
    assert {one["name"]: one["state"] for one in manifest["artifacts"]} == {
        "final_model": "present", "*.json": "present", "missing.bin": "missing",
    }  # fmt: skip


async def test_a_file_that_is_moved_into_the_tree_while_it_is_asked_for_is_sent(api: Api, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given an upload that the result's tree takes in just when it was found at its old place
    await put(api, task, "late.bin", **announced(CONTENT))
    really = results.find_file
    places = []

    def find(*arguments):
        found = really(*arguments)
        if not places:
            places.append(found.path)
            target = api.results / task / "artifacts" / "late.bin"
            target.parent.mkdir(parents=True)
            found.path.rename(target)
        return found

    monkeypatch.setattr(results, "find_file", find)
    # when, then
    assert sha(await got(api, f"/api/v1/results/{task}/files/late.bin")) == sha(CONTENT)
    assert places
    assert not places[0].exists()
