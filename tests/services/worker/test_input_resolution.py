"""From a dispatch to what the host gets."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mloc.core.answers import Dispatch, InputRef
from mloc.core.events import AttemptSucceeded, ResultPublished
from mloc.core.needs.seed import seed_of
from mloc.services.clock import SystemClock
from mloc.services.log.event_log import Report
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer
from mloc.services.worker.attempt import Attempt
from mloc.services.worker.input_resolution import InputResolver, ResolutionError
from mloc.services.worker.scrubbing import scrub_bytes, scrub_text, secrets_worth_hiding


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(MemoryServer(lambda: int(time.time() * 1000)))


def attempt(spec: dict[str, Any], **dispatch: Any) -> Attempt:
    return Attempt(("t1", 2), "1-1", 1, Dispatch("sft", Raw(msgspec.json.encode({"taskType": "sft", **spec})), **dispatch), (3,))


async def published(log: MemoryLog, result: dict[str, Any]) -> str:
    """Id of a log entry that holds the result inline."""
    event = AttemptSucceeded(task="t0", attempt=1, worker="w", incarnation=1, seq=1, result=Raw(msgspec.json.encode(result)))
    await log.report("w", 1, 1, [Report(event)])
    return (await log.ends())[1]


async def test_a_spec_without_references_goes_to_the_host_byte_for_byte(log: MemoryLog, tmp_path: Path) -> None:
    one = attempt({"model": {"source": {"type": "local", "identifier": "/m"}}}, checkpoint="/c/10", shard=(1, 4))
    frame = await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert frame.spec == bytes(one.dispatch.spec)
    assert (frame.folder, frame.rows_folder) == (f"{tmp_path}/.attempts/t1/2", f"{tmp_path}/.attempts/t1/rows")
    assert (frame.devices, frame.checkpoint, frame.shard) == ((3,), "/c/10", (1, 4))
    assert frame.seed == seed_of("t1") == seed_of("t1.s3") != seed_of("t2")


async def test_the_rows_of_a_large_result_are_read_only_where_they_are_referred_to(log: MemoryLog, tmp_path: Path) -> None:
    # given a dependency whose result is a file with a row a line
    (tmp_path / "gen").mkdir()
    rows = ",\n".join(json.dumps({"index": at, "output": "x"}) for at in range(1000))
    (tmp_path / "gen" / "responses.json").write_text('{"ok":true,"items":[\n' + rows + '\n],"jsonl_export":{"path":"/e"},"usage":{"n":1}}')
    resolver = InputResolver(log, SystemClock(), tmp_path, {})
    inputs = {"gen": InputRef("gen", "", inline=False)}
    # when a task refers to what stands beside the rows
    frame = await resolver.resolve(attempt({"data": {"type": "jsonl", "path": "${gen.result.jsonl_export.path}"}}, inputs=inputs))
    # then that is all it gets
    assert frame.inputs["gen"]["result"] == {"ok": True, "jsonl_export": {"path": "/e"}, "usage": {"n": 1}}
    assert json.loads(frame.spec)["data"]["path"] == "/e"
    whole = await resolver.resolve(attempt({"data": {"type": "list", "items": ["${gen.result.items[999].index}"]}}, inputs=inputs))
    assert len(whole.inputs["gen"]["result"]["items"]) == 1000


async def test_a_shards_result_will_lie_in_its_parents_folder(log: MemoryLog, tmp_path: Path) -> None:
    resolver = InputResolver(log, SystemClock(), tmp_path, {})
    whole, shard = attempt({}), Attempt(("t1.s2", 1), "1-2", 1, Dispatch("inference", Raw(b"{}"), shard=(2, 4)), ())
    assert resolver.plain(whole).final_folder == f"{tmp_path}/t1"
    assert resolver.plain(shard).final_folder == f"{tmp_path}/t1/shards/2"


async def test_references_to_an_inline_result_are_resolved_from_the_log(log: MemoryLog, tmp_path: Path) -> None:
    id = await published(log, {"ok": True, "final_model_path": "/models/final"})
    one = attempt({"model": {"source": {"type": "local", "identifier": "${train.result.final_model_path}"}}}, inputs={"train": InputRef("t0", id)})
    frame = await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert json.loads(frame.spec)["model"]["source"]["identifier"] == "/models/final"
    assert frame.inputs["train"]["task_id"] == "t0"
    assert frame.inputs["train"]["result"]["ok"] is True


async def test_a_large_result_is_read_from_the_published_tree(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / "t0").mkdir()
    (tmp_path / "t0" / "responses.json").write_text('{"final_model_path": "/m"}')
    event = ResultPublished(task="t0", sha256="d", size_bytes=10, files=True)
    await log.report("w", 1, 1, [Report(event)])
    id = (await log.ends())[1]
    source = {"type": "local", "identifier": "${a.result.final_model_path}"}
    one = attempt({"model": {"source": source}}, inputs={"a": InputRef("t0", id, inline=False)})
    frame = await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert json.loads(frame.spec)["model"]["source"]["identifier"] == "/m"


async def test_a_result_that_is_nowhere_can_be_tried_again_and_the_message_names_the_place(log: MemoryLog, tmp_path: Path) -> None:
    one = attempt({}, inputs={"a": InputRef("t0", "5-0")})
    with pytest.raises(ResolutionError, match=r"t0/responses\.json.*RESULTS_DIR") as raised:
        await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert raised.value.retryable


async def test_a_value_that_the_result_lacks_is_for_a_person_and_named_with_its_path(log: MemoryLog, tmp_path: Path) -> None:
    id = await published(log, {"ok": True})
    one = attempt({"model": {"source": {"type": "local", "identifier": "${a.result.weights}"}}}, inputs={"a": InputRef("t0", id)})
    with pytest.raises(ResolutionError, match="weights") as raised:
        await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert not raised.value.retryable


async def test_only_allowed_variables_resolve_and_what_was_read_is_hidden_from_reports(log: MemoryLog, tmp_path: Path) -> None:
    resolver = InputResolver(log, SystemClock(), tmp_path, {"WEIGHTS": "/secret/weights", "OTHER": "other-value"})
    one = attempt({"model": {"source": {"type": "local", "identifier": "${env.WEIGHTS}"}}})
    frame = await resolver.resolve(one)
    assert json.loads(frame.spec)["model"]["source"]["identifier"] == "/secret/weights"
    assert one.secrets == ("/secret/weights",)
    with pytest.raises(ResolutionError, match="WORKER_ENV_ALLOW"):
        await resolver.resolve(attempt({"model": {"source": {"type": "local", "identifier": "${HOME}"}}}))


async def test_a_tasks_own_secrets_are_fetched_and_hidden(log: MemoryLog, tmp_path: Path) -> None:
    await log.set_secret("t1", {"model.token": 'hf_"abc"def'})
    one = attempt({"model": {"source": {"type": "local", "identifier": "${secret.model.token}"}}}, secrets_task="t1")
    frame = await InputResolver(log, SystemClock(), tmp_path, {}).resolve(one)
    assert json.loads(frame.spec)["model"]["source"]["identifier"] == 'hf_"abc"def'
    assert scrub_bytes(frame.spec, one.secrets).count(b"***") == 1


def test_longer_secrets_are_hidden_before_those_that_are_part_of_them_and_short_ones_are_left() -> None:
    secrets = secrets_worth_hiding(["abcd", "abcdef", "ab"])
    assert scrub_text("abcdef abcd ab", secrets) == "*** *** ab"


def test_secrets_are_found_in_json_however_it_escapes_them() -> None:
    secrets = ('pä"ss',)
    for ascii_only in (True, False):
        assert scrub_bytes(json.dumps({"a": 'pä"ss'}, ensure_ascii=ascii_only).encode(), secrets) == b'{"a": "***"}'
