"""What follows from the declarations of the endpoints: routes, checks of what is asked, openapi.json, the table of the docs."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from mloc.core.events import TaskDispatched
from mloc.services.intake.http.endpoint import names_in, parameters_of
from mloc.services.intake.http.endpoint_table import PAGE, with_table
from mloc.services.intake.http.endpoints import ENDPOINTS
from mloc.services.intake.http.openapi import openapi_document, refusals
from mloc.services.log.event_log import TelemetryPoint
from mloc.services.log.memory_log import MemoryLog
from tests.services.intake.api_document import checked, operations
from tests.services.intake.conftest import ECHO
from tests.services.intake.test_http_submit import PIPELINE

BODIES = {"/priority": b'{"priority": 1}', "/elastic": b'{"enabled": true}', "/v1/tasks": ECHO.encode()}


def test_the_table_in_the_docs_is_fresh():
    assert PAGE.read_text() == with_table(PAGE.read_text()), "run `make docs`"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
def test_a_declaration_is_whole(endpoint):
    declared = {one.name for one in parameters_of(endpoint.parameters, endpoint.path) if one.place == "path"}
    assert {names_in(path) for path in endpoint.paths} == {frozenset(declared)}
    assert endpoint.answers
    assert endpoint.summary
    assert not set(refusals(endpoint)) & set(endpoint.answers)


def test_paths_and_operations_are_named_once():
    routes = [(one.method, path) for one in ENDPOINTS for path in one.paths]
    assert len(set(routes)) == len(routes)
    operations = [operation["operationId"] for path in openapi_document(ENDPOINTS)["paths"].values() for operation in path.values()]
    assert len(set(operations)) == len(operations) == len(routes)


async def test_the_running_api_serves_its_own_description(api):
    response = await api.get("/openapi.json")
    assert (response.status, await response.json()) == (200, json.loads(json.dumps(openapi_document(ENDPOINTS))))


async def test_everything_wrong_with_a_query_is_said_at_once_with_what_is_accepted(api):
    response = await api.get("/api/v1/tasks?page=0&page_size=many&onwer=ada")
    error = (await response.json())["error"]
    said = {problem["path"]: problem for problem in error["details"]}
    assert (response.status, error["code"], set(said)) == (400, "bad_parameter", {"page", "page_size", "onwer"})
    assert said["page_size"]["found"] == '"many"'
    assert said["page_size"]["accepted"] == "a whole number ≥ 1 and ≤ 500"
    assert said["onwer"]["hint"] == 'did you mean "owner"?'


async def test_everything_wrong_with_a_body_is_said_at_once(api):
    id = (await api.submit())["task_id"]
    response = await api.post(f"/api/v1/tasks/{id}/priority", b'{"priorty": 5, "by": 3}')
    error = (await response.json())["error"]
    said = {problem["path"]: problem for problem in error["details"]}
    assert (response.status, set(said)) == (422, {"priority", "priorty", "by"})
    assert said["priorty"]["hint"] == 'did you mean "priority"?'
    assert said["by"]["accepted"] == "text"


@pytest.mark.parametrize(("switch", "status"), [("dry_run=1", 200), ("dry_run", 200), ("dry_run=no", 201), ("dry_run=maybe", 400)])
async def test_a_switch_in_a_query_is_read_as_people_write_it(api, switch, status):
    response = await api.post(f"/api/v1/tasks?{switch}", b"apiVersion: mloc/v1\nspec: {taskType: echo, data: [a]}\n")
    assert response.status == status, await response.text()


async def test_every_endpoint_answers_as_the_document_says_in_every_state_of_a_task(api):
    """`Api.get` and `Api.post` hold each answer against the document; here every operation is asked about every sort of task."""
    await api.register(tags=("fast",))
    published, dead, running, waiting = [(await api.submit(ECHO.replace("hello", name)))["task_id"] for name in ("aa", "bb", "cc", "dd")]
    pipeline = (await api.submit(PIPELINE))["task_id"]
    await api.run_to_result(published)
    await api.run_to_dead_letter(dead)
    await api.append(TaskDispatched(task=running, attempt=1, worker="w", incarnation=1))
    await MemoryLog(api.memory).append_telemetry([(running, TelemetryPoint(1, line="hello", metrics={"loss": 0.5}))])
    (api.results / published).mkdir(parents=True)
    for name in ("responses.json", "manifest.json"):
        (api.results / published / name).write_text('{"ok": true}')
    upload = (await api.post(f"/api/v1/results/{running}/files/a", headers={"Upload-Complete": "?0"})).headers["Location"].rpartition("/")[2]
    seen: dict[str, set[int]] = {}
    for method, path in operations():
        if path == "/api/v1/events":  # it has no end: test_http_streams
            continue
        for id in (published, dead, running, waiting, pipeline, "w", "nothing"):
            asked = path.replace("names/{name}", f"names/{id}").replace("{id}", id).replace("{name}", "responses.json")
            asked = asked.replace("{attempt}", "1").replace("{upload}", upload).replace("{of_sha256}", sha256(b"").hexdigest())
            body = next((body for end, body in BODIES.items() if path.endswith(end)), None)
            if path == "/api/v1/results":
                body = json.dumps({"task_id": id, "result": {"ok": True}})
            response = await checked(await api.client.request(method, asked, data=body, headers={"Upload-Offset": "0"}))
            seen.setdefault(f"{method} {path}", set()).add(response.status)
    never_well = {operation for operation, statuses in seen.items() if min(statuses) >= 300}
    assert never_well <= {"GET /metrics", "GET /api/v1/stats"}  # nobody writes them here; test_http_read_model has the second


async def test_one_parameter_with_two_values_is_refused_and_not_half_ignored(api):
    response = await api.get("/api/v1/tasks?state=running&state=published&label=a=b&label=c=d")
    error = (await response.json())["error"]
    assert (response.status, error["path"]) == (400, "state")
    assert "given more than once" in error["message"]
    assert "details" in error
    assert len(error["details"]) == 1  # labels may come more than once


async def test_a_text_of_the_wrong_form_is_answered_with_an_example_and_no_pattern(api):
    error = (await (await api.get("/api/v1/events?after=2h")).json())["error"]
    assert error["details"][0]["accepted"] == "such as 1767323045006-0"
    error = (await (await api.get("/api/v1/stats?by=team")).json())["error"]
    assert error["details"][0]["accepted"] == "owner"
    error = (await (await api.get("/api/v1/events?type=Nope")).json())["error"]
    assert "AttemptFailed" in error["message"]
