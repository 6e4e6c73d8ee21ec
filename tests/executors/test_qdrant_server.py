"""Qdrant as a server, over HTTP. The server is a stand-in, since none can be installed from a package index: it takes the requests that Qdrant's own
client sends, holds them to the models of Qdrant's interface and to the server's rules (a key, a largest body, filters by indexed fields), and
answers from the client's collections in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost
from test_rag import MISSING, failure, rag, run

pytestmark = [pytest.mark.models, pytest.mark.deep, pytest.mark.skipif(bool(MISSING), reason=f"mloc[rag] is not installed: {', '.join(MISSING)}")]

KEY = "a-key-of-qdrant"
LARGEST_BODY = 32 << 20  # bytes, as a server has it by default


class StandIn(ThreadingHTTPServer):
    """`log` has each request's method and path; `refuse` is the status of what comes next, if it is not to be answered."""

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        super().__init__(("127.0.0.1", 0), Handler)
        self.collections = QdrantClient(location=":memory:")
        self.lock = threading.Lock()
        self.indexed: set[str] = set()
        self.log: list[str] = []
        self.refuse = 0
        self.missing_once = False  # the next who asks is told that there is no collection

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test looks at `log`."""

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.log.append(f"{self.command} {path}")
            status, result = self._result(path.split("/")[2:], body)
        said = json.dumps({"result": result, "status": "ok", "time": 0} if status == 200 else {"status": {"error": result}, "time": 0}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def _result(self, words: list[str], body: bytes) -> tuple[int, Any]:
        from qdrant_client import models

        server, name, what = self.server, words[0], "/".join(words[1:])
        if self.headers.get("api-key") != KEY:
            return 401, "Must provide an API key or an Authorization bearer token"
        if server.refuse:
            return server.refuse, "it is not answered now"
        if len(body) > LARGEST_BODY:
            return 413, "JSON payload is larger than allowed"
        ask = server.collections
        if (self.command, what) == ("GET", "exists"):
            exists, server.missing_once = ask.collection_exists(name) and not server.missing_once, False
            return 200, {"exists": exists}
        if (self.command, what) == ("GET", ""):
            return 200, json.loads(ask.get_collection(name).model_dump_json())
        if (self.command, what) == ("PUT", ""):
            if ask.collection_exists(name):
                return 409, f"Wrong input: Collection `{name}` already exists!"
            return 200, ask.create_collection(name, vectors_config=models.CreateCollection.model_validate_json(body).vectors)
        if what == "index":
            server.indexed.add(models.CreateFieldIndex.model_validate_json(body).field_name)
            return 200, {"operation_id": 1, "status": "completed"}
        if (self.command, what) == ("PUT", "points"):
            ask.upsert(name, models.PointsList.model_validate_json(body).points)
            return 200, {"operation_id": 1, "status": "completed"}
        if what == "points":
            found = ask.retrieve(name, models.PointRequest.model_validate_json(body).ids, with_payload=False)
            return 200, [json.loads(record.model_dump_json()) for record in found]
        if what == "points/count":
            return 200, {"count": ask.count(name).count}
        assert what == "points/query", what
        query = models.QueryRequest.model_validate_json(body)
        fields = {condition.key for condition in (query.filter.must if query.filter else None) or []}
        if missing := fields - server.indexed:
            return 400, f"Bad request: Index required but not found for {sorted(missing)}"
        points = ask.query_points(name, query=query.query, limit=query.limit, query_filter=query.filter, with_payload=True).points
        return 200, {"points": [json.loads(point.model_dump_json()) for point in points]}


@pytest.fixture
def server() -> Iterator[StandIn]:
    started = StandIn()
    thread = threading.Thread(target=started.serve_forever, daemon=True)
    thread.start()
    yield started
    started.shutdown()
    started.server_close()
    thread.join()


def at(server: StandIn, **more: Any) -> dict[str, Any]:
    return {"store": "qdrant", "qdrant": {"url": server.url, "api_key": KEY, "timeout": 10}, **more}


def found(result: dict[str, Any]) -> list[str]:
    return [passage["text"] for passage in result["items"][0]["passages"]]


def test_a_server_keeps_an_index_for_the_next_task_and_for_those_without_documents(warm_host: DrivenHost, tmp_path: Path, server: StandIn) -> None:
    # given a task that filled the server's collection
    first = run(warm_host, rag(tmp_path, ["Snow is white."], **at(server)))
    assert found(first)[0] == "Snow is white."
    assert server.log.count("PUT /collections/documents") == 1
    assert server.log.count("PUT /collections/documents/points") == 1
    # when the same documents come again, then nothing is put a second time
    again = run(warm_host, rag(tmp_path, ["Snow is white."], **at(server)))
    assert found(again) == found(first)
    assert server.log.count("PUT /collections/documents/points") == 1
    # and a task without documents searches what is there
    bare = run(warm_host, rag(tmp_path, ["Snow is white."], documents=None, **at(server)))
    assert found(bare)[0] == "Snow is white."
    assert KEY not in json.dumps([first, again, bare])


def test_many_passages_are_put_in_requests_that_a_server_takes(warm_host: DrivenHost, tmp_path: Path, server: StandIn) -> None:
    wide = {"embedding": {"source": {"type": "scratch", "architecture": "bert", "hidden_size": 1024, "num_hidden_layers": 1,
                                     "num_attention_heads": 2, "vocab_size": 300, "tokenizer_text": ["Snow is white."]}}}  # fmt: skip
    facts = [{"text": f"fact {number}", "source": "many"} for number in range(700)]
    from mloc.executors.retrieval import qdrant_store

    most = qdrant_store.PUT_BYTES // (1024 * qdrant_store.NUMBER_BYTES)
    assert most < 700
    run(warm_host, rag(tmp_path, ["fact 3"], **at(server), documents=facts, **wide))
    assert server.log.count("PUT /collections/documents/points") == -(-700 // most)


def test_a_collection_that_another_task_makes_meanwhile_is_used(warm_host: DrivenHost, tmp_path: Path, server: StandIn) -> None:
    run(warm_host, rag(tmp_path, ["Snow is white."], **at(server)))
    server.missing_once = True
    assert found(run(warm_host, rag(tmp_path, ["Blood is red."], **at(server))))[0] == "Blood is red."


@pytest.mark.parametrize(("status", "type_", "retryable"), [(503, "StoreFailed", True), (429, "StoreFailed", True), (400, "StoreFailed", False)])
def test_what_a_server_refuses_is_said_and_tried_again_where_that_may_help(
    warm_host: DrivenHost, tmp_path: Path, server: StandIn, status: int, type_: str, retryable: bool
) -> None:
    server.refuse = status
    error = failure(warm_host, rag(tmp_path, ["Snow"], **at(server)))
    assert (error.type, error.retryable) == (type_, retryable), error.message
    assert str(status) in error.message


def test_a_wrong_key_is_said_without_showing_it(warm_host: DrivenHost, tmp_path: Path, server: StandIn) -> None:
    given = {"store": "qdrant", "qdrant": {"url": server.url, "api_key": "a-wrong-key"}}
    error = failure(warm_host, rag(tmp_path, ["Snow"], **given))
    assert (error.type, error.retryable) == ("StoreFailed", False)
    assert "look after retrieval.qdrant.api_key" in error.message
    assert "a-wrong-key" not in error.message
