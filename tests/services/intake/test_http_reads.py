"""What the API shows of tasks, results and workers, and what people may ask."""

import json
import os
from pathlib import Path

import pytest

from mloc.core.cluster import Cluster
from mloc.core.events import AttemptFailed, AttemptStarted, Error, TaskCancelled, TaskDispatched, WorkerLost
from mloc.core.worker import Worker
from mloc.services.intake.worker_views import worker_view
from mloc.services.log.event_log import Heartbeat, TelemetryPoint
from mloc.services.log.memory_log import MemoryLog
from mloc.services.results.manifest import Origin, manifest_of
from mloc.services.results.tree_cursor import TreeState
from mloc.services.results.tree_fold import TreeFold
from tests.services.intake.conftest import ECHO, WORKER, Api


async def answer(api: Api, path: str, status: int = 200) -> dict:
    response = await api.get(path)
    assert response.status == status, await response.text()
    return await response.json()


async def asked(api: Api, path: str, status: int, body: object = None) -> dict:
    response = await api.post(path, json.dumps(body).encode() if body is not None else None)
    assert response.status == status, await response.text()
    return await response.json()


async def submit_named(api: Api, *names: str, owner: str = "ada") -> list[str]:
    text = ECHO.replace("owner: ada", f"owner: {owner}")
    return [(await api.submit(text.replace("hello", name)))["task_id"] for name in names]


def write_tree(api: Api, task: str, **files: str) -> Path:
    folder = api.results / task
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


async def test_health_and_readiness_follow_the_log(api):
    await api.submit()
    health = await answer(api, "/healthz")
    assert (health["ok"], health["pid"]) == (True, os.getpid())
    assert (await answer(api, "/readyz"))["ok"]
    api.memory.stop()
    while not api.observer.trouble:
        await api.observer.moved(0.05)
    assert (await answer(api, "/readyz", 503))["error"]["code"] == "not_ready"
    assert (await answer(api, "/health"))["event_log"]


async def test_a_list_is_filtered_sorted_and_paged(api):
    await api.register()
    a, b, c = await submit_named(api, "aa", "bb", "cc")
    (d,) = await submit_named(api, "dd", owner="bob")
    await api.run_to_result(a)
    await api.run_to_dead_letter(b)
    shown = await answer(api, "/api/v1/tasks?page_size=2")
    assert ([task["task_id"] for task in shown["tasks"]], shown["total"]) == ([d, c], 4)
    for query, expected in {
        "page_size=2&page=2": [b, a], "state=published": [a], "state=FAILED": [b], "state=ready,published": [d, c, a],
        "owner=bob": [d], "label=team%3Dx&sort=oldest": [a, b, c, d], "label=team%3Dy": [], "kind=echo&sort=name": [a, b, c, d],
        "since=1h": [d, c, b, a], "since=2999-01-01": [], "worker=w&sort=oldest": [a, b],
    }.items():  # fmt: skip
        assert [task["task_id"] for task in (await answer(api, f"/api/v1/tasks?{query}"))["tasks"]] == expected, query


@pytest.mark.parametrize("query", ["state=nope", "state=running&status=DONE", "page=0", "page_size=9999", "sort=up", "since=yesterday", "label=x"])
async def test_a_filter_that_cannot_be_used_is_said(api, query):
    assert query.split("=")[0] in (await answer(api, f"/api/v1/tasks?{query}", 400))["error"]["message"]


async def test_what_is_not_there_is_404_in_the_one_shape(api):
    too_long = f"/api/v1/results/{'a' * 4000}"
    for path in (
        "/api/v1/tasks/no", "/api/v1/tasks/no/events", "/api/v1/results/no", "/workers/no", "/api/v1/nothing", "/api/v1/results/no/files/a", too_long,
    ):  # fmt: skip
        assert set((await answer(api, path, 404))["error"]) == {"code", "message", "path", "hint"}
    response = await api.client.delete("/api/v1/tasks")
    assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET,HEAD,POST"


async def test_a_result_is_there_as_soon_as_it_is_published_and_from_the_tree_afterwards(api):
    await api.register()
    (id,) = await submit_named(api, "aa")
    assert (await answer(api, f"/api/v1/results/{id}", 404))["error"]["code"] == "not_ready"
    await api.run_to_result(id, b'{"ok":true,"items":[1]}')
    assert await answer(api, f"/api/v1/results/{id}") == {"ok": True, "items": [1]}
    manifest = manifest_of(Origin(id, attempt=1), [], ok=True)
    write_tree(api, id, responses_json='{"ok":true,"items":[2]}', manifest_json=manifest.decode(), weights_bin="0123456789")
    assert await answer(api, f"/api/v1/results/{id}") == {"ok": True, "items": [2]}
    assert (await answer(api, f"/api/v1/results/{id}/files"))["manifest"] == json.loads(manifest)
    response = await api.get(f"/api/v1/results/{id}/files/weights.bin", headers={"Range": "bytes=2-4"})
    assert (response.status, await response.text()) == (206, "234")


async def test_a_failed_task_has_its_error_for_a_result(api):
    await api.register()
    (id,) = await submit_named(api, "aa")
    await api.run_to_dead_letter(id)
    result = await answer(api, f"/api/v1/results/{id}")
    assert (result["ok"], result["error"]) == (False, {"type": "Boom", "message": "it broke", "retryable": False})
    assert [task["task_id"] for task in (await answer(api, "/api/v1/dead_letters"))["tasks"]] == [id]


async def test_a_cancelled_task_says_so_in_the_words_of_its_tree_whatever_failed_before(api):
    await api.register()
    failed, untouched = await submit_named(api, "aa", "bb")
    report = {"task": failed, "attempt": 1, **WORKER}
    await api.append(TaskDispatched(**report), AttemptStarted(**report), AttemptFailed(**report, error=Error("Boom", "it broke")))
    await api.append(TaskCancelled(task=failed, reason="not needed"), TaskCancelled(task=untouched))
    for id, said in ((failed, "not needed"), (untouched, "the task was cancelled")):
        (draft,) = TreeFold(TreeState(), lambda _: {}).fold("1-0", TaskCancelled(task=id, reason="not needed" if id == failed else ""))
        in_tree = json.loads(draft.result)["error"]
        assert (await answer(api, f"/api/v1/results/{id}"))["error"] == in_tree == {"type": "Cancelled", "message": said, "retryable": False}


@pytest.mark.parametrize(
    "name", ["../secret", "%2e%2e/secret", "..%2fsecret", "a/../../secret", "%2fetc/passwd", "link", "%00", "../../../../etc/passwd", "a" * 4000]
)
async def test_files_outside_of_a_result_are_never_served(api, name):
    folder = write_tree(api, "t", responses_json="{}")
    (api.results / "secret").write_text("geheim")
    (folder / "link").symlink_to(api.results / "secret")
    for base in ("/api/v1/results/t/files/", "/api/v1/tasks/t/files/"):
        response = await api.client.get(base + name)
        assert response.status in (400, 404)
        assert "geheim" not in await response.text()
    assert (await api.client.get("/api/v1/results/%2e%2e/files/secret")).status in (400, 404)


async def test_people_can_cancel_retry_and_change_the_priority(api):
    await api.register()
    a, b = await submit_named(api, "aa", "bb")
    await asked(api, f"/api/v1/tasks/{a}/priority", 202, {"priority": 90})
    await asked(api, f"/api/v1/tasks/{a}/cancel", 202, {"reason": "typo"})
    await api.run_to_dead_letter(b)
    await asked(api, f"/api/v1/tasks/{b}/retry", 202)
    assert api.logged()[-4:].count("RetryRequested") == 1
    assert {"TaskPriorityChanged", "CancelRequested"} <= set(api.logged())
    assert (await answer(api, f"/api/v1/tasks/{a}"))["priority"] == 90


async def test_requests_that_make_no_sense_are_refused_with_the_reason(api):
    await api.register()
    (a,) = await submit_named(api, "aa")
    assert "not given up" in (await asked(api, f"/api/v1/tasks/{a}/retry", 409))["error"]["message"]
    await asked(api, f"/api/v1/tasks/{a}/priority", 422, {"priority": 101})
    await asked(api, f"/api/v1/tasks/{a}/priority", 422, {"priority": "high"})
    await asked(api, f"/api/v1/tasks/{a}/cancel", 422, [1])
    assert (await api.post(f"/api/v1/tasks/{a}/cancel", b"{")).status == 400
    await api.run_to_result(a)
    before = api.logged()
    for request in ("cancel", "retry"):
        await asked(api, f"/api/v1/tasks/{a}/{request}", 409)
    assert api.logged() == before


async def test_a_tasks_history_and_log_lines_are_paged(api):
    await api.register()
    a, b = await submit_named(api, "aa", "bb")
    await api.run_to_result(b)
    await api.run_to_result(a)
    events = (await answer(api, f"/api/v1/tasks/{a}/events"))["events"]
    assert [event["type"] for event in events] == ["TaskSubmitted", "TaskDispatched", "AttemptStarted", "AttemptSucceeded", "ResultPublished"]
    assert all(event["task"] == a and event["at"].endswith("Z") for event in events)
    first = await answer(api, f"/api/v1/tasks/{a}/events?limit=2")
    rest = await answer(api, f"/api/v1/tasks/{a}/events?after={first['next']}")
    assert first["events"] + rest["events"] == events

    await MemoryLog(api.memory).append_telemetry([(a, TelemetryPoint(1, line="hello")), (a, TelemetryPoint(1, step=3, metrics={"loss": 0.5}))])
    lines = (await answer(api, f"/api/v1/tasks/{a}/logs"))["lines"]
    assert [line.get("line") for line in lines] == ["hello", None]
    assert lines[1]["metrics"] == {"loss": 0.5}
    assert (await answer(api, f"/api/v1/tasks/{a}/logs?after={lines[0]['id']}"))["lines"] == lines[1:]
    await answer(api, f"/api/v1/tasks/{a}/events?limit=0", 400)
    await answer(api, f"/api/v1/tasks/{a}/events?after=x", 400)


async def test_log_lines_that_expired_are_read_from_the_result(api):
    await api.register()
    (a,) = await submit_named(api, "aa")
    await api.run_to_result(a)
    (write_tree(api, a) / "logs").mkdir()
    (api.results / a / "logs" / "task.log").write_text("one\ntwo\n")
    assert [line["line"] for line in (await answer(api, f"/api/v1/tasks/{a}/logs"))["lines"]] == ["one", "two"]


async def test_why_a_task_waits_is_explained(api):
    (a,) = await submit_named(api, "aa")
    assert (await answer(api, f"/api/v1/tasks/{a}/explain"))["reason"] == "no_worker"
    await api.register()
    assert (await answer(api, f"/api/v1/tasks/{a}/explain"))["reason"] == "next"


async def test_workers_are_shown_with_their_last_heartbeat_and_drained(api):
    await api.register(tags=("fast",))
    for path in ("/workers", "/api/v1/workers"):
        shown = await answer(api, path)
        assert shown["total"] == 1
        assert (shown["workers"][0]["worker_id"], shown["workers"][0]["status"]) == ("w", "IDLE")
    assert (await answer(api, "/workers?type=echo&tag=fast&state=idle"))["total"] == 1
    assert (await answer(api, "/workers?type=sft"))["total"] == 0
    assert (await asked(api, "/workers/w/drain", 202))["draining"]
    shown = await answer(api, "/workers/w")
    assert shown["hostname"] == "host"


async def test_a_worker_is_switched_off_and_on_again(api):
    await api.register()
    assert (await asked(api, "/workers/w/elastic", 202, {"enabled": False, "reason": "at night"}))["enabled"] is False
    (a,) = await submit_named(api, "aa")
    explained = await answer(api, f"/api/v1/tasks/{a}/explain")
    assert (explained["reason"], explained["change"]) == ("held", "switching w on would let it run there")
    shown = await answer(api, "/workers/w")
    assert (shown["status"], shown["enabled"]) == ("DISABLED", False)
    assert (await answer(api, "/api/v1/workers?state=disabled"))["total"] == 1
    await asked(api, "/api/v1/workers/w/elastic", 202, {"enabled": True})
    assert (await answer(api, f"/api/v1/tasks/{a}/explain"))["worker"] == "w"
    assert (await answer(api, "/workers/w"))["status"] == "IDLE"
    await asked(api, "/workers/w/elastic", 422, {})
    await asked(api, "/workers/nobody/elastic", 404, {"enabled": True})


async def test_a_busy_worker_and_a_silent_one_say_so(api):
    await api.register()
    (a,) = await submit_named(api, "aa")
    await api.append(TaskDispatched(task=a, attempt=1, worker="w", incarnation=1))
    shown = await answer(api, "/workers/w")
    assert (shown["status"], shown["running"][0]["task_id"]) == ("RUNNING", a)
    await api.append(WorkerLost(worker="w", incarnation=1))
    assert (await answer(api, "/workers/w"))["status"] == "STALE"


async def test_metrics_are_what_the_metrics_service_wrote(api):
    assert (await answer(api, "/metrics", 503))["error"]["code"] == "no_metrics"
    folder = api.state / "metrics"
    folder.mkdir(parents=True)
    (folder / "metrics.prom").write_text("mloc_tasks 1\n")
    (folder / "metrics.json").write_text('{"tasks": 1}')
    response = await api.get("/metrics")
    assert (await response.text(), response.headers["Content-Type"]) == ("mloc_tasks 1\n", "text/plain; version=0.0.4; charset=utf-8")
    assert await answer(api, "/metrics?format=json") == {"tasks": 1}
    assert await (await api.get("/metrics", headers={"Accept": "application/json"})).json() == {"tasks": 1}


def test_a_heartbeat_is_shown_with_its_age():
    beat = Heartbeat("w", 1, cpu_percent=50.0, running=2)
    view = worker_view(Cluster(), Worker("w", 1, registered_ms=1000), (2000, beat), now_ms=3500, ttl_ms=5000)
    assert (view.status, view.heartbeat.age_sec, view.heartbeat.cpu_percent) == ("IDLE", 1.5, 50.0)
    assert worker_view(Cluster(), Worker("w", 1, registered_ms=1000), (2000, beat), now_ms=9000, ttl_ms=5000).status == "STALE"
