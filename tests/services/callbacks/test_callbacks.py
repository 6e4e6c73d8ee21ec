"""The ends of tasks told to real receivers that are well, down, slow, full or hostile; what the log says of it; and what never gets out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from mloc.core.answers import Dispatch
from mloc.core.callbacks import Callback
from mloc.core.cluster import Cluster
from mloc.core.events import CancelRequested, Error, Receiver, RetryRequested, TaskDispatched, TaskSubmitted
from mloc.services.callbacks.callbacks import Policy
from mloc.services.intake.views import task_page
from mloc.services.results.folders import attempt_folder
from tests.services.callbacks.receiver import receiving
from tests.services.small_cell import Cell, Outcome, echo, task

QUICK = Policy(timeout_sec=10.0, first_pause_ms=20)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


def result_to(url: str, **more: object) -> Receiver:
    return Receiver("result", url, **more)  # type: ignore[arg-type]


def notice_to(url: str, **more: object) -> Receiver:
    return Receiver("notice", url, **more)  # type: ignore[arg-type]


async def until_callback(cell: Cell, id: str, state: str, tries: int = 0, at: int = 0) -> Callback:
    def is_so(cluster: Cluster) -> bool:
        callbacks = cluster.tasks[id].callbacks if id in cluster.tasks else ()
        return bool(callbacks) and callbacks[at].state == state and callbacks[at].tries >= tries

    return (await cell.until(is_so)).tasks[id].callbacks[at]


async def test_the_result_is_posted_as_it_was_asked_for(cell: Cell) -> None:
    async with receiving() as receiver:
        to = result_to(f"{receiver.url}/in?run=7", method="PUT", headers={"X-Run": "nightly"})
        async with cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
            await cell.submit(task("t", receivers=(to,), owner="ada", labels={"a": "b"}))
            told = (await receiver.until())[0]
            made = await until_callback(cell, "t", "made")
    assert (told.method, told.path, told.headers["X-Run"], told.headers["Content-Type"]) == ("PUT", "/in?run=7", "nightly", "application/json")
    assert told.json["task_id"] == "t"
    assert told.json["worker_id"] == "w"
    assert told.json["result"]["items"][0]["output"] == "t"
    assert (told.json["metadata"]["owner"], told.json["metadata"]["labels"], told.json["metadata"]["state"]) == ("ada", {"a": "b"}, "published")
    assert (made.status, made.tries, made.error, len(receiver.told)) == (200, 1, "", 1)


async def test_a_result_with_files_is_sent_from_its_folder(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mloc.services.intake.published_results.LARGE_BYTES", 1000)  # so that a small one is sent in pieces
    result = msgspec.json.encode({"ok": True, "items": [{"index": i, "output": "x" * 100} for i in range(100)]})

    def with_files(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        folder = cell.results / attempt_folder(dispatched.task, dispatched.attempt)
        folder.mkdir(parents=True)
        (folder / "responses.json").write_bytes(result)
        return None

    async with receiving() as receiver, cell.scheduler(), cell.worker(with_files), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", light=False, receivers=(result_to(receiver.url),)))
        told = (await receiver.until())[0]
    assert told.json["result"] == msgspec.json.decode(result)
    assert int(told.headers["Content-Length"]) == len(told.body)


async def test_a_receiver_that_is_down_is_told_once_it_is_up(cell: Cell) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(result_to(f"http://127.0.0.1:{port}/in"),)))
        down = await until_callback(cell, "t", "due", tries=2)
        assert "cannot be reached" in down.error
        assert down.due_ms > down.at_ms
        async with receiving(port=port) as receiver:
            await receiver.until()
            made = await until_callback(cell, "t", "made")
    assert made.tries >= 3
    assert made.error == ""


@pytest.mark.parametrize("status", [500, 503, 408, 429])
async def test_what_may_pass_is_tried_again_under_the_same_key(cell: Cell, status: int) -> None:
    answers = (web.Response(status=status, text="come back"), web.Response(status=204))
    async with receiving(*answers) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(notice_to(receiver.url),)))
        first, second = await receiver.until(2)
        made = await until_callback(cell, "t", "made")
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert (made.status, made.tries, first.json) == (204, 2, second.json)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (web.Response(status=400, text="no such\n run"), "answered 400 Bad Request: no such run"),
        (web.Response(status=413), "answered 413"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/elsewhere"}), "redirects are not followed"),
    ],
)
async def test_what_cannot_pass_is_given_up_at_once_with_the_receivers_words(cell: Cell, answer: web.Response, words: str) -> None:
    async with receiving(answer) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(notice_to(receiver.url),)))
        given_up = await until_callback(cell, "t", "given_up")
    assert words in given_up.error
    assert (given_up.tries, len(receiver.told)) == (1, 1)


async def test_it_is_given_up_after_as_many_tries_as_the_setting_says(cell: Cell) -> None:
    policy = Policy(first_pause_ms=5, tries=3)
    async with receiving(web.Response(status=500)) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=policy):
        await cell.submit(task("t", receivers=(notice_to(receiver.url),)))
        assert (await until_callback(cell, "t", "given_up")).tries == 3
    assert len(receiver.told) == 3


async def test_a_receiver_that_asks_for_time_gets_it(cell: Cell) -> None:
    asking = web.Response(status=429, headers={"Retry-After": "7"})
    async with receiving(asking) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(notice_to(receiver.url),)))
        due = await until_callback(cell, "t", "due", tries=1)
    assert due.due_ms - due.at_ms >= 7000
    assert len(receiver.told) == 1


async def test_one_that_hangs_delays_neither_other_receivers_nor_other_tasks(cell: Cell) -> None:
    async with receiving(None) as hanging, receiving() as well, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(*(task(f"h{i}", receivers=(notice_to(hanging.url),)) for i in range(50)))
        await hanging.until(8)
        await cell.submit(task("t", receivers=(notice_to(well.url),)), task("after", depends_on=("t",)))
        await well.until()
        await cell.until_phase("after", "published")
        assert (await until_callback(cell, "t", "made")).tries == 1
        assert len(hanging.told) == 8  # no more at a time of one place


async def test_one_that_is_too_slow_is_tried_again(cell: Cell) -> None:
    async with receiving(None, web.Response()) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(result_to(receiver.url, timeout_sec=0.2),)))
        assert "within 0.2 s" in (await until_callback(cell, "t", "due", tries=1)).error
        assert (await until_callback(cell, "t", "made")).tries == 2


async def test_calls_that_were_under_way_when_the_service_went_are_made_again(cell: Cell) -> None:
    async with receiving(None, web.Response()) as receiver, cell.scheduler(), cell.worker():
        async with cell.aggregator(policy=QUICK):
            await cell.submit(task("t", receivers=(result_to(receiver.url),)))
            await receiver.until()
        assert (await cell.cluster()).tasks["t"].callbacks[0].state == "due"
        async with cell.aggregator(policy=QUICK):
            assert (await until_callback(cell, "t", "made")).tries == 1
    first, second = receiver.told
    assert (first.headers["Idempotency-Key"], first.body) == (second.headers["Idempotency-Key"], second.body)


async def test_one_that_was_told_is_not_told_again_after_a_restart(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker():
        async with cell.aggregator(policy=QUICK):
            await cell.submit(task("t", receivers=(result_to(receiver.url),)))
            await until_callback(cell, "t", "made")
        async with cell.aggregator(policy=QUICK):
            await cell.submit(task("u", receivers=(result_to(receiver.url),)))
            await until_callback(cell, "u", "made")
    assert [told.json["task_id"] for told in receiver.told] == ["t", "u"]


async def test_only_the_ends_that_were_asked_for_are_told(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(notice_to(receiver.url, on=("failed", "cancelled")),)))
        await cell.until_phase("t", "published")
        await cell.submit(task("u", receivers=(notice_to(receiver.url, on=("failed", "cancelled")),), depends_on=("never",)))
        await cell.log.submit([CancelRequested(task="u", by="ada", reason="not needed")])
        told = (await receiver.until())[0].json
        assert (await until_callback(cell, "u", "made")).tries == 1
    assert (await cell.cluster()).tasks["t"].callbacks[0].state == "waiting"
    assert (told["event"], told["task_id"], told["state"], told["text"]) == ("cancelled", "u", "cancelled", "u (u) was cancelled: not needed")
    assert len(receiver.told) == 1


async def test_a_dead_letter_is_told_and_so_is_its_later_success(cell: Cell) -> None:
    broken = [True]

    def at_first_broken(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        return Error("OutOfMemory", "the device is too small", retryable=False) if broken[0] else echo(dispatched, dispatch)

    async with receiving() as receiver, cell.scheduler(), cell.worker(at_first_broken), cell.aggregator(policy=QUICK):
        await cell.submit(task("t", receivers=(result_to(f"{receiver.url}/result"), notice_to(f"{receiver.url}/notice"))))
        await receiver.until(2)
        broken[0] = False
        await cell.log.submit([RetryRequested(task="t", by="ada")])
        await receiver.until(4)
        await until_callback(cell, "t", "made", at=0)
        await until_callback(cell, "t", "made", at=1)
    results = [told.json["result"] for told in receiver.told if told.path == "/result"]
    notices = [told.json for told in receiver.told if told.path == "/notice"]
    assert results[0] == {"ok": False, "error": {"type": "OutOfMemory", "message": "the device is too small", "retryable": False}}
    assert results[1]["ok"] is True
    assert [notice["event"] for notice in notices] == ["failed", "succeeded"]
    assert notices[0]["error"]["message"] == "the device is too small"
    assert len({told.headers["Idempotency-Key"] for told in receiver.told}) == 4


async def test_a_secret_reaches_its_receiver_and_nothing_else(cell: Cell) -> None:
    secret = "s3cr3t-of-ada"
    echoing = web.Response(status=500, text=f"unknown token {secret}")
    async with receiving(echoing, web.Response()) as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        to = notice_to(receiver.url, headers={"Authorization": "Bearer ${secret.notify.headers.Authorization}", "X-Site": "${SITE}"})
        await cell.log.set_secret("t", {"notify.headers.Authorization": secret})
        await cell.submit(task("t", receivers=(to,), has_secrets=True))
        first = await until_callback(cell, "t", "due", tries=1)
        assert "SITE" in first.error  # this aggregator may not read it: said, and tried again
    policy = Policy(first_pause_ms=20, variables={"SITE": "north-4"})
    async with receiving(echoing, web.Response(), port=int(receiver.url.rpartition(":")[2])) as receiver, cell.aggregator(policy=policy):
        refused = await until_callback(cell, "t", "due", tries=2)
        assert refused.error.endswith("unknown token ***")
        told = (await receiver.until(2))[1]
        await until_callback(cell, "t", "made")
        await cell.until(lambda _: "t" not in cell.server.state.secrets)  # nobody needs it any more
    assert told.headers["Authorization"] == f"Bearer {secret}"
    assert told.headers["X-Site"] == "north-4"
    logged = b"".join(entry.payload for entry in await cell.log.read("0-0"))
    assert secret.encode() not in logged
    assert not [file for file in cell.folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    cluster = await cell.cluster()
    assert secret not in msgspec.json.encode(task_page(cluster, cluster.tasks["t"], [], b"")).decode()


async def test_a_password_in_an_address_is_hidden_as_the_receiver_got_it(cell: Cell) -> None:
    sent = base64.b64encode(b"ada:s3cr3t-of-ada").decode()
    async with receiving(web.Response(status=403, text=f"not you, Basic {sent}")) as receiver:
        async with cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
            await cell.log.set_secret("t", {"notify.url": receiver.url.replace("//", "//ada:s3cr3t-of-ada@")})
            await cell.submit(task("t", receivers=(notice_to("${secret.notify.url}"),), has_secrets=True))
            refused = await until_callback(cell, "t", "given_up")
        assert receiver.told[0].headers["Authorization"] == f"Basic {sent}"
    assert refused.error.endswith("not you, Basic ***")


async def test_a_secret_stays_for_a_dead_letter_and_goes_with_the_cancelled(cell: Cell) -> None:
    def broken(dispatched: TaskDispatched, dispatch: Dispatch) -> Outcome:
        return Error("Broken", "x", retryable=False)

    async with cell.scheduler(), cell.worker(broken), cell.aggregator(policy=QUICK):
        await cell.log.set_secret("t", {"a": "secret"})
        await cell.submit(task("t", has_secrets=True))
        await cell.until_phase("t", "dead_lettered")
        assert cell.server.state.secrets["t"] == {"a": "secret"}
        await cell.log.submit([CancelRequested(task="t")])
        await cell.until(lambda _: "t" not in cell.server.state.secrets)


async def test_a_signed_notice_can_be_told_from_a_forged_one(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        secret = "whsec_" + base64.b64encode(b"a key of twenty-four bytes").decode()
        await cell.submit(task("t", receivers=(notice_to(receiver.url, secret=secret),)))
        told = (await receiver.until())[0]
    headers = told.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + told.body
    expected = base64.b64encode(hmac.new(b"a key of twenty-four bytes", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == headers["Idempotency-Key"]


async def test_an_address_may_name_what_an_earlier_task_gave(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        to = result_to(receiver.url + "/${first.result.items[0].output}", headers={"X-Model": "${first.result.model}"})
        next_one = task("p.next", parent="p", stage="next", depends_on=("p.first",), receivers=(to,))
        await cell.submit(task("p.first", parent="p", stage="first"), next_one)
        told = (await receiver.until())[0]
    assert (told.path, told.headers["X-Model"]) == ("/p.first", "echo")


@pytest.mark.parametrize(
    ("allowed", "url", "refused"),
    [
        (("example.org",), "http://127.0.0.1:{port}/", "127.0.0.1 is not among CALLBACK_ALLOWED_HOSTS (example.org)"),
        (("*.example.org",), "http://localhost:{port}/", "localhost is not among"),
        (("10.0.0.0/8",), "http://localhost:{port}/", "localhost is not among"),
        ((), "http://169.254.169.254/latest/meta-data/", "never called"),
        ((), "http://[::ffff:169.254.169.254]/", "never called"),
        (("localhost",), "http://localhost:{port}/", ""),
        (("127.0.0.0/8", "::1/128"), "http://localhost:{port}/", ""),
    ],
)
async def test_only_hosts_that_the_operator_allows_are_called(cell: Cell, allowed: tuple[str, ...], url: str, refused: str) -> None:
    policy = Policy(allowed_hosts=allowed, first_pause_ms=20)
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=policy):
        port = receiver.url.rpartition(":")[2]
        await cell.submit(task("t", receivers=(notice_to(url.format(port=port)),)))
        ended = await until_callback(cell, "t", "given_up" if refused else "made")
    assert refused in ended.error
    assert len(receiver.told) == (0 if refused else 1)


async def test_a_shard_tells_nobody_and_the_whole_once(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        spec = b'{"taskType":"echo","data":{"items":["a","b"]}}'
        await cell.submit(task("t", spec, items=2, shards=2, receivers=(result_to(receiver.url),)))
        await until_callback(cell, "t", "made")
    assert [told.json["task_id"] for told in receiver.told] == ["t"]
    assert len(receiver.told[0].json["result"]["items"]) == 2


async def test_a_pipeline_tells_its_own_end_when_its_last_stage_has_ended(cell: Cell) -> None:
    async with receiving() as receiver, cell.scheduler(), cell.worker(), cell.aggregator(policy=QUICK):
        parent = TaskSubmitted(task="p", name="p", kind="Pipeline", children=("p.a", "p.b"), receivers=(notice_to(receiver.url),))
        await cell.submit(parent, task("p.a", parent="p", stage="a"), task("p.b", parent="p", stage="b", depends_on=("p.a",)))
        told = (await receiver.until())[0].json
        await until_callback(cell, "p", "made")
    assert (told["event"], told["task_id"], told["children"], told["children_done"]) == ("succeeded", "p", ["p.a", "p.b"], 2)
    assert len(receiver.told) == 1
