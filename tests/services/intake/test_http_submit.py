"""POST /api/v1/tasks: every form of body, every refusal, nothing half-submitted."""

import asyncio
import json
import random

import pytest

from mloc.core.events import Device, Hardware
from mloc.services.intake import submitter
from mloc.services.intake.http.request_body import MAX_BODY_BYTES
from mloc.services.log.memory_log import MemoryLog
from tests.services.intake.conftest import ECHO, serving

SPEC = {"taskType": "echo", "data": {"prompts": ["a/b\t\u00e9"]}}
AS_JSON = {"apiVersion": "mloc/v1", "kind": "EchoTask", "metadata": {"name": "hello"}, "spec": SPEC}
PIPELINE = """apiVersion: mloc/v1
metadata: {name: chain}
spec:
  taskType: echo
  data: {prompts: [a]}
  stages: [{name: one}, {name: two}]
"""


async def refused(api, body, status: int, code: str, content_type: str = "text/yaml", **headers: str) -> dict:
    """The error of a submission that is refused as a whole."""
    before = api.logged()
    response = await api.post("/api/v1/tasks", body, headers={"Content-Type": content_type, **headers})
    answer = await response.json()
    assert (response.status, answer["ok"], answer["error"]["code"]) == (status, False, code), answer
    assert set(answer["error"]) >= {"code", "message", "path", "hint"}
    assert api.logged() == before
    return answer["error"]


async def test_a_submission_is_answered_with_its_ids_and_seen_at_once(api):
    answer = await api.submit()
    id = answer["task_id"]
    assert answer == {
        "ok": True, "task_id": id, "task_ids": [id], "count": 1, "worker_id": None, "topic": "tasks.echo",
        "tasks": [{"task_id": id, "name": "hello", "status": "PENDING", "state": "ready", "waiting_on": [], "depends_on": [], "parent": None,
                   "stage": None}],
        "warnings": ["no living worker takes tasks of type echo; they wait until one does"],
    }  # fmt: skip
    shown = await (await api.get(f"/api/v1/tasks/{id}")).json()
    assert (shown["state"], shown["status"], shown["owner"], shown["labels"]) == ("ready", "PENDING", "ada", {"team": "x"})
    assert shown["spec"]["data"]["items"] == ["a", "b"]


async def test_a_body_that_is_not_in_the_encoding_it_names_is_refused(api):
    error = await refused(api, ECHO, 400, "unreadable_body", **{"Content-Encoding": "gzip"})
    assert "gzip" in error["message"]


async def test_a_pipeline_is_one_submission_with_all_its_stages(api):
    answer = await api.submit(PIPELINE)
    assert answer["count"] == 3
    assert [task["stage"] for task in answer["tasks"]] == [None, "one", "two"]
    assert answer["tasks"][2]["waiting_on"] == [answer["task_ids"][1]]
    page = await (await api.get(f"/api/v1/tasks/{answer['task_id']}")).json()
    assert [part["stage"] for part in page["tasks"]] == ["one", "two"]


@pytest.mark.parametrize(
    ("content_type", "body", "count"),
    [
        ("application/json", json.dumps(AS_JSON), 1),
        ("application/json", json.dumps(AS_JSON, indent="\t"), 1),
        ("application/json", json.dumps({"yaml": ECHO}), 1),
        ("application/json", json.dumps(ECHO), 1),
        ("application/json", json.dumps([AS_JSON, AS_JSON]), 2),
        ("application/json", ECHO, 1),
        ("application/x-www-form-urlencoded", ECHO, 1),  # what curl says unless it is told otherwise
        ("application/yaml", ECHO + "---\n" + ECHO, 2),
        ("text/yaml", "\ufeff" + ECHO.replace("\n", "\r\n"), 1),
    ],
)
async def test_every_form_of_body_is_taken(api, content_type, body, count):
    response = await api.post("/api/v1/tasks", body.encode(), headers={"Content-Type": content_type})
    answer = await response.json()
    assert response.status == 201, answer
    assert answer["count"] == count


async def test_yaml_that_lost_its_line_breaks_is_told_how_to_keep_them(api):
    error = await refused(api, ECHO.replace("\n", ""), 400, "lost_line_breaks", "application/x-www-form-urlencoded")
    assert "--data-binary" in error["hint"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b"  \n", 400, "empty_body"),
        (b"\xff\xfe\x00", 400, "not_utf8"),
        (b"a: [1, 2", 400, "invalid_yaml"),
        (b"a: &a [*a]\n", 400, "invalid_yaml"),
        (b"[" * 100_000, 400, "invalid_yaml"),
        (b"- just\n- a list\n", 422, "invalid_task"),
        (ECHO.replace("taskType", "taskTipe").encode(), 422, "invalid_task"),
        (ECHO.replace("[a, b]", "{}").encode(), 422, "invalid_task"),
        ((ECHO + "  dependsOn: [nothing-there]\n").encode(), 422, "invalid_task"),
        ((ECHO + "---\n" + ECHO.replace("echo", "ecko")).encode(), 422, "invalid_task"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
    ],
)
async def test_what_is_wrong_is_refused_whole_with_a_clear_error(api, body, status, code):
    error = await refused(api, body, status, code)
    if code in ("invalid_yaml", "invalid_task"):
        assert error["details"]


async def test_an_error_names_path_line_and_the_nearest_name(api):
    error = await refused(api, ECHO.replace("taskType", "taskTipe"), 422, "invalid_task")
    assert any(problem.get("line") == 5 and "taskType" in problem.get("hint", "") + problem["message"] for problem in error["details"])


async def test_the_same_key_gives_the_same_tasks_and_with_another_body_a_conflict(api):
    headers = {"Idempotency-Key": "k", "Content-Type": "text/yaml"}
    first = await (await api.post("/api/v1/tasks", ECHO, headers=headers)).json()
    again = await api.post("/api/v1/tasks", ECHO, headers=headers)
    answer = await again.json()
    assert (again.status, answer["task_ids"], answer["repeated"]) == (201, first["task_ids"], True)
    assert api.logged().count("TaskSubmitted") == 1
    await refused(api, ECHO.replace("hello", "other"), 409, "idempotency_conflict", **{"Idempotency-Key": "k"})
    await refused(api, ECHO, 400, "bad_idempotency_key", **{"Idempotency-Key": "a b"})


async def test_a_dry_run_says_where_it_would_go_and_submits_nothing(api):
    await api.register()
    before = api.logged()
    answer = await (await api.post("/api/v1/tasks?dry_run=1", ECHO)).json()
    assert answer["dry_run"]
    assert (answer["tasks"][0]["placement"]["reason"], answer["tasks"][0]["placement"]["worker"]) == ("next", "w")
    assert answer["warnings"] == []
    assert api.logged() == before


async def test_a_dry_run_says_for_each_stage_the_smallest_change_that_would_let_it_run(api):
    await api.register(hardware=Hardware("host", 4.0, devices=(Device(0, "L4", 24 * 2**30),)))
    large = "{name: two, spec: {resources: {hardware: {gpu: {count: 1, memory: 80Gi}}}}}"
    answer = await (await api.post("/api/v1/tasks?dry_run=1", PIPELINE.replace("{name: two}", large))).json()
    whole, one, two = answer["tasks"]
    assert (whole["placement"], one["placement"]["worker"]) == (None, "w")
    assert (two["depends_on"], two["placement"]["reason"]) == (["one"], "never_fits")
    assert two["placement"]["change"] == "gpu.memory 24Gi instead of 80Gi would fit w"
    answer = await (await api.post("/api/v1/tasks?dry_run=1", PIPELINE)).json()
    assert (answer["tasks"][2]["placement"]["reason"], answer["tasks"][2]["placement"]["summary"]) == ("held", "it waits for one")
    answer = await (await api.post("/api/v1/tasks?dry_run=1", ECHO.replace("taskType: echo", "taskType: my_own"))).json()
    assert "no living worker takes tasks of type my_own; they wait until one does" in answer["warnings"]


@pytest.mark.parametrize("question", ["", "?dry_run=1"])
async def test_a_destination_that_will_not_be_used_is_told_to_who_submits(api, question):
    task = ECHO + "  output: {destination: {path: /elsewhere/mine}}\n"
    answer = await (await api.post(f"/api/v1/tasks{question}", task, headers={"Content-Type": "text/yaml"})).json()
    (warning,) = [warning for warning in answer["warnings"] if "destination" in warning]
    assert 'spec.output.destination.path: "/elsewhere/mine" will not be used' in warning
    assert warning.endswith("the result goes to the default folder")


async def test_many_posts_at_a_time_share_round_trips(api, monkeypatch):
    sizes: list[int] = []
    together = MemoryLog.try_each

    async def counted(self, submissions, **limits):
        sizes.append(len(submissions))
        return await together(self, submissions, **limits)

    monkeypatch.setattr(MemoryLog, "try_each", counted)
    answers = await asyncio.gather(*(api.submit() for _ in range(60)))
    assert len({answer["task_id"] for answer in answers}) == 60
    assert sum(sizes) == 60
    assert len(sizes) < 60


async def test_literal_secrets_are_kept_out_of_the_log_and_hidden_when_shown(api):
    answer = await api.submit(ECHO + "  notify: {url: 'https://x/y', headers: {Authorization: Bearer abcdefgh}}\n")
    assert not any(b"abcdefgh" in entry.payload for entry in api.memory.state.entries)
    assert list((await MemoryLog(api.memory).secrets(answer["task_id"])).values()) == ["Bearer abcdefgh"]
    shown = await (await api.get(f"/api/v1/tasks/{answer['task_id']}")).json()
    assert shown["spec"]["notify"]["headers"] == {"Authorization": "***"}


async def test_a_full_backlog_is_a_clear_refusal(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, backlog_limit=1) as api:
        id = (await api.submit())["task_id"]
        await api.get(f"/api/v1/tasks/{id}")  # by now the API has folded it
        response = await api.post("/api/v1/tasks", ECHO)
        assert response.status == 429
        assert response.headers["Retry-After"]
        assert "BACKLOG_LIMIT" in (await response.json())["error"]["message"]


async def test_without_a_server_submissions_are_told_to_come_back(api, monkeypatch):
    monkeypatch.setattr(submitter, "PATIENCE_SEC", 0.2)
    await api.submit()
    api.memory.stop()
    response = await api.post("/api/v1/tasks", ECHO)
    assert response.status == 503
    assert response.headers["Retry-After"]
    assert (await response.json())["error"]["code"] == "log_unavailable"
    api.memory.restart()
    await api.submit()


async def status_of(api, line: bytes, header: bytes, body: bytes = b"") -> int:
    """Of a request as these bytes, which no client would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    head = line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\nContent-Length: " + str(len(body)).encode()
    writer.write(head + b"\r\n\r\n" + body)
    status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    writer.close()
    return status


async def test_bytes_that_are_no_text_are_a_mistake_of_the_client_in_every_header(api):
    task = (await api.submit())["task_id"].encode()
    assert await status_of(api, b"GET /api/v1/events", b"Last-Event-ID: \xff") == 400
    assert await status_of(api, b"POST /api/v1/results/" + task + b"/files/a", b"Upload-Complete: \xff", b"abc") == 400
    assert await status_of(api, b"POST /api/v1/results/" + task + b"/files/a", b"Repr-Digest: sha-256=:\xff:", b"abc") == 400
    assert await status_of(api, b"POST /api/v1/tasks", b"Idempotency-Key: \xff", ECHO.encode()) == 400


async def test_a_token_is_asked_for_everywhere_but_health_and_metrics(memory_server, tmp_path):
    async with serving(memory_server, tmp_path, orchestrator_token="geheim") as api:
        for path in ("/api/v1/tasks", "/workers", "/nothing"):
            response = await api.get(path)
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await api.get("/api/v1/tasks", headers={"Authorization": "Bearer falsch"})).status == 401
        assert (await api.get("/api/v1/tasks", headers={"Authorization": "Bearer geheim"})).status == 200
        assert await status_of(api, b"GET /workers", b"Authorization: Bearer \xff\xfe") == 401
        assert (await api.get("/healthz")).status == 200
        assert (await api.get("/metrics")).status == 503  # nothing is written yet, but nobody asked for the token
    async with serving(memory_server, tmp_path, orchestrator_token="geheim", metrics_require_token=True) as api:
        assert (await api.get("/metrics")).status == 401


async def test_secrets_of_a_submission_that_was_not_taken_are_forgotten(api):
    headers = {"Idempotency-Key": "k", "Content-Type": "text/yaml"}
    text = ECHO + "  notify: {url: 'https://x/y', headers: {Authorization: Bearer abcdefgh}}\n"
    first = await (await api.post("/api/v1/tasks", text, headers=headers)).json()
    await api.post("/api/v1/tasks", text, headers=headers)
    await api.post("/api/v1/tasks", text + "  timeout_sec: 1\n", headers=headers)
    assert list(api.memory.state.secrets) == [first["task_id"]]


async def test_no_body_at_all_breaks_the_api(api):
    chance = random.Random(7)
    pieces = ["\0", "~nobody/x.jsonl", "a" * 5000, "{", "]", ": ", "\n", "- ", "&a ", "*a", "!!python/object:os.system", "'", '"', "é", "${x.y}"]
    paths = ("~nobody/x", "a" * 5000, "../" * 500, "/dev/zero")
    bodies = [ECHO.replace("{prompts: [a, b]}", f"{{jsonl: {{path: '{path}'}}}}") for path in paths]
    for _ in range(300):
        text = list(ECHO)
        for _ in range(chance.randrange(1, 4)):
            text[chance.randrange(len(text))] = chance.choice(pieces)
        bodies.append("".join(text))
    for number, body in enumerate(bodies):
        kind = ("text/yaml", "application/json")[number % 2]
        response = await api.post("/api/v1/tasks", body.encode(), headers={"Content-Type": kind})
        assert response.status in (201, 400, 422), body
        assert (await response.json())["ok"] == (response.status == 201)
