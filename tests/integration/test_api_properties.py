"""Requests that schemathesis makes up from openapi.json, against a real API process: no mistake of the API, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import ignored_auth, missing_required_header, negative_data_rejection, positive_data_acceptance

from tests.integration.service_stack import Stack
from tests.log_server import LogServer
from tests.services.intake.api_document import document

# No token is set here. Ids that are made up are well formed and not found; what an empty value means is said in the docs, not in the schema.
NOT_ASKED = [ignored_auth, missing_required_header, negative_data_rejection, positive_data_acceptance]
QUIET = list(HealthCheck)


def schema_of(phases: dict[str, dict[str, bool]]) -> schemathesis.openapi.BaseSchema:
    schema = schemathesis.openapi.from_dict(document(), config=SchemathesisConfig.from_dict({"phases": phases}))
    return schema.exclude(path="/api/v1/events")  # a stream without an end


quick = schema_of({"coverage": {"enabled": False}, "stateful": {"enabled": False}}).exclude(operation_id_regex=r"_at_\d+$")  # second paths
whole = schema_of({"stateful": {"enabled": False}})


@pytest.fixture(scope="module")
def api(valkey_server: LogServer) -> Iterator[Stack]:
    one = Stack(valkey_server.url)
    one.start("intake-api", "metrics")
    try:
        one.until(lambda: one.http("GET", "/readyz")[0] == 200)
        (one.folder / "known").write_text(one.http("POST", "/api/v1/tasks", "apiVersion: mloc/v1\nspec: {taskType: echo, data: [a]}\n")[1]["task_id"])
        for served in ("/api/v1/stats", "/metrics?format=json"):
            one.until(lambda path=served: one.http("GET", path)[0] == 200)
        yield one
    finally:
        one.close()


@quick.parametrize()
@settings(max_examples=4, deadline=None, suppress_health_check=QUIET, derandomize=True)
def test_no_request_is_a_mistake_of_the_api(case: Case, api: Stack) -> None:
    ask(case, api)


@pytest.mark.deep
@whole.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
def test_no_request_at_all_is_a_mistake_of_the_api(case: Case, api: Stack) -> None:
    ask(case, api)


def ask(case: Case, api: Stack) -> None:
    """Half of the made-up ids stand for a task that is there; nothing is followed for ever."""
    if case.query:
        case.query.pop("follow", None)
    id = (case.path_parameters or {}).get("id")
    if isinstance(id, str) and len(id) % 2:
        case.path_parameters["id"] = (api.folder / "known").read_text()
    case.call_and_validate(base_url=f"http://127.0.0.1:{api.port}", excluded_checks=NOT_ASKED, timeout=20)
