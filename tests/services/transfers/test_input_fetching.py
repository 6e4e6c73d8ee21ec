"""What a spec names elsewhere, on this disk before the host hears of it."""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mloc.services.clock import SystemClock
from mloc.services.transfers.input_cache import InputCache
from mloc.services.transfers.input_fetching import Here, InputFetcher
from mloc.services.transfers.remote_files import RemoteFiles
from mloc.services.transfers.results_api import ApiAddress
from mloc.services.transfers.transfer_errors import TransferError
from tests.services.transfers.file_server import FileServer

KEY = ("t9", 1)


class World:
    """A worker's results folder and cache, and an API at the test's server."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.results = folder / "results"
        self.results.mkdir()
        self.server = server
        self.lines: list[str] = []
        self.cache = InputCache(folder / "cache", 1 << 30)
        self.cache.open()
        self.remote = RemoteFiles(self.cache, SystemClock(), ApiAddress(server.url("").rstrip("/"), {"Authorization": "Bearer t"}))
        self.fetcher = InputFetcher(self.results, self.remote, SystemClock())

    async def fetch(self, spec: dict[str, Any], inputs: dict[str, Any] | None = None, *, is_shared: bool = False) -> Here:
        encoded = msgspec.json.encode({"taskType": "sft", **spec})
        return await self.fetcher.fetch(KEY, encoded, inputs or {}, self.lines.append, is_shared=is_shared)

    def publish_remotely(self, task: str, files: dict[str, bytes]) -> None:
        """The API has this result."""
        listed = [{"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()]
        facts = {"task_id": task, "ok": True, "attempt": 1, "worker": "a", "result_id": "", "seed": None, "versions": {}, "artifacts": []}
        self.server.files[f"api/v1/results/{task}/files"] = msgspec.json.encode({"ok": True, "manifest": {**facts, "files": listed}})
        self.server.files |= {f"api/v1/results/{task}/files/{name}": content for name, content in files.items()}


@pytest_asyncio.fixture
async def world(tmp_path: Path, server: FileServer) -> AsyncIterator[World]:
    made = World(tmp_path, server)
    yield made
    await made.fetcher.close()


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


async def test_rows_behind_a_url_are_a_file_with_an_ending_that_tells_its_format(world: World) -> None:
    world.server.files |= {"rows.csv": b"prompt\nhi\n", "export": b'{"prompt":"hi"}\n'}
    url = world.server.url("rows.csv")
    here = await world.fetch({"data": {"type": "dataset", "url": url}})
    assert Path(here.fetched[url]).read_bytes() == b"prompt\nhi\n"
    assert here.fetched[url].endswith(".csv")
    here = await world.fetch({"data": {"type": "jsonl", "url": world.server.url("export")}})
    assert here.fetched[world.server.url("export")].endswith(".jsonl")


async def test_a_file_that_did_not_change_is_fetched_once(world: World) -> None:
    world.server.files["rows.jsonl"] = b"{}\n"
    spec = {"data": {"type": "jsonl", "url": world.server.url("rows.jsonl")}}
    first, second = await world.fetch(spec), await world.fetch(spec)
    assert first.fetched == second.fetched
    assert world.server.statuses_asked_with("If-None-Match")[1] != ""
    world.server.files["rows.jsonl"] = b'{"a":1}\n'
    third = await world.fetch(spec)
    assert Path(next(iter(third.fetched.values()))).read_bytes() == b'{"a":1}\n'


async def test_two_tasks_that_want_the_same_file_fetch_it_once(world: World) -> None:
    world.server.files["rows.jsonl"] = b"{}\n" * 1000
    spec = {"data": {"type": "jsonl", "url": world.server.url("rows.jsonl")}}
    await asyncio.gather(*(world.fetch(spec) for _ in range(4)))
    assert sum(asked == "" for asked in world.server.statuses_asked_with("If-None-Match")) == 1


async def test_a_models_archive_is_unpacked_and_its_inner_folder_found(world: World) -> None:
    world.server.files["m.tar.gz"] = archive({"model/config.json": b"{}", "model/model.safetensors": b"w"})
    url = world.server.url("m.tar.gz")
    here = await world.fetch({"model": {"source": {"type": "http", "identifier": url}}})
    assert sorted(path.name for path in Path(here.fetched[url]).iterdir()) == ["config.json", "model.safetensors"]


async def test_an_archive_that_leads_out_of_its_folder_is_refused_for_good(world: World) -> None:
    world.server.files["m.tar.gz"] = archive({"../evil": b"x"})
    with pytest.raises(TransferError, match="leads out") as raised:
        await world.fetch({"model": {"source": {"type": "http", "identifier": world.server.url("m.tar.gz")}}})
    assert not raised.value.retryable


async def test_a_folder_behind_a_url_is_fetched_by_the_names_that_a_model_has(world: World) -> None:
    index = msgspec.json.encode({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}})
    files = {"config.json": b"{}", "model.safetensors.index.json": index, "model-1.safetensors": b"1", "model-2.safetensors": b"2"}
    world.server.files |= {f"m/{name}": content for name, content in files.items()}
    url = world.server.url("m/")
    here = await world.fetch({"model": {"source": {"type": "http", "identifier": url}}})
    assert {path.name: path.read_bytes() for path in Path(here.fetched[url]).iterdir()} == files


async def test_a_path_of_another_worker_is_fetched_from_the_result_that_it_lies_in(world: World) -> None:
    world.publish_remotely("t1.train", {"artifacts/final_model/config.json": b"{}", "artifacts/final_model/w": b"w", "responses.json": b"{}"})
    inputs = {"train": {"task_id": "t1.train", "folder": "/b/results/t1.train", "result": {}}}
    path = "/a/results/t1.train/artifacts/final_model"
    here = await world.fetch({"model": {"source": {"type": "stage", "identifier": "train", "path": path, "taskId": "t1.train"}}}, inputs)
    assert sorted(file.name for file in Path(here.fetched[path]).iterdir()) == ["config.json", "w"]
    assert all(asked == "Bearer t" for asked in world.server.statuses_asked_with("Authorization"))


async def test_the_weights_that_a_task_made_are_found_without_a_path(world: World) -> None:
    world.publish_remotely("t1.train", {"artifacts/final_lora/adapter_config.json": b"{}", "artifacts/final_lora/w": b"w"})
    inputs = {"train": {"task_id": "t1.train", "folder": "/b/results/t1.train", "result": {"ok": True}}}
    here = await world.fetch({"model": {"source": {"type": "stage", "identifier": "train"}}}, inputs)
    assert (Path(here.inputs["train"]["folder"]) / "artifacts" / "final_lora" / "w").read_bytes() == b"w"
    assert here.inputs["train"]["result"] == {"ok": True}


async def test_what_lies_in_the_shared_folder_is_not_fetched(world: World) -> None:
    folder = world.results / "t1" / "artifacts" / "final_model"
    folder.mkdir(parents=True)
    inputs = {"train": {"task_id": "t1", "folder": str(world.results / "t1"), "result": {}}}
    path = "/elsewhere/t1/artifacts/final_model"  # the same folder under another mount
    here = await world.fetch({"model": {"source": {"type": "local", "identifier": path}}}, inputs, is_shared=True)
    assert here.fetched == {path: str(folder)}
    assert world.server.asked == []


async def test_of_path_and_url_the_one_that_is_there_is_taken(world: World, tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_bytes(b"{}\n")
    both = {"type": "jsonl", "path": str(tmp_path / "here.jsonl"), "url": world.server.url("rows.jsonl")}
    assert (await world.fetch({"data": both})).fetched == {}
    assert world.server.asked == []
    world.server.files["rows.jsonl"] = b"{}\n"
    here = await world.fetch({"data": {**both, "path": "/nowhere/rows.jsonl"}})
    assert list(here.fetched) == [both["url"]]


async def test_an_adapters_base_model_is_brought_too(world: World) -> None:
    base = "/a/results/t0/artifacts/final_model"
    world.publish_remotely("t0", {"artifacts/final_model/config.json": b"{}"})
    config = msgspec.json.encode({"base_model_name_or_path": base})
    world.publish_remotely("t1", {"artifacts/final_lora/adapter_config.json": config})
    inputs = {"tune": {"task_id": "t1", "folder": "/b/t1", "result": {}}}
    here = await world.fetch({"model": {"source": {"type": "stage", "identifier": "tune"}}}, inputs)
    assert (Path(here.fetched[base]) / "config.json").is_file()


async def test_a_worker_with_another_token_than_the_apis_says_so_and_leaves_the_task_to_others(world: World) -> None:
    world.server.refuse = [(401, {})]
    with pytest.raises(TransferError, match="ORCHESTRATOR_TOKEN of this worker") as mine:
        await world.fetch({"checkpoint": {"load": {"type": "local", "taskId": "t1"}}})
    assert mine.value.retryable
    world.server.refuse = [(401, {})]
    with pytest.raises(TransferError, match="does it need headers") as theirs:  # a server of somebody else, by another address of it
        await world.fetch({"data": {"type": "jsonl", "url": world.server.url("rows.jsonl").replace("127.0.0.1", "localhost")}})
    assert not theirs.value.retryable


async def test_a_missing_file_is_for_a_person_and_named_by_its_place(world: World) -> None:
    with pytest.raises(TransferError, match=r"data\.jsonl: .*rows\.jsonl answers 404") as raised:
        await world.fetch({"data": {"type": "jsonl", "url": world.server.url("rows.jsonl")}})
    assert not raised.value.retryable
    assert list((world.cache.folder / "new").iterdir()) == []  # nothing came that a later try could go on from


async def test_images_of_rows_are_fetched_and_one_that_is_missing_is_left_to_its_row(world: World) -> None:
    world.server.files |= {"a.png": b"a"}
    there, missing = world.server.url("a.png"), world.server.url("missing.png")
    uploaded = f"/elsewhere/.inputs/{hashlib.sha256(b'b').hexdigest()}/b.png"
    world.server.files[f"api/v1/inputs/{hashlib.sha256(b'b').hexdigest()}/b.png"] = b"b"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (there, missing, "data:image/png;base64,AAAA")]
    items = ["a text", {"prompt": parts}, [{"role": "user", "content": [{"type": "image", "image": uploaded}]}]]
    here = await world.fetch({"taskType": "inference", "data": {"type": "list", "items": items}})
    assert {named: Path(path).read_bytes() for named, path in here.fetched.items()} == {there: b"a", uploaded: b"b"}
    assert any("data[1].prompt[1]" in line and "404" in line for line in world.lines)
    turns = [{"role": "user", "content": parts[:1]}]
    assert there in (await world.fetch({"taskType": "inference", "data": {"type": "messages", "messages": turns}})).fetched


async def test_a_fetch_can_be_broken_off_and_gone_on_with(world: World) -> None:
    world.server.files["rows.jsonl"] = b'{"a":1}\n' * 1_000_000
    world.server.held = asyncio.Event()
    spec = {"data": {"type": "jsonl", "url": world.server.url("rows.jsonl")}}
    fetching = asyncio.ensure_future(world.fetch(spec))
    async with asyncio.timeout(20):
        while not any(part.stat().st_size > 2_000_000 for part in world.cache.folder.glob("new/*/*.part")):
            await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    world.server.held.set()
    here = await world.fetch(spec)
    assert Path(next(iter(here.fetched.values()))).read_bytes() == world.server.files["rows.jsonl"]
    assert world.server.statuses_asked_with("Range")[-1] != ""


async def test_a_reward_model_may_be_a_stage_or_something_of_a_hub(world: World) -> None:
    world.publish_remotely("t1", {"artifacts/final_model/config.json": b"{}"})
    inputs = {"judge": {"task_id": "t1", "folder": "/b/t1", "result": {}}}
    here = await world.fetch({"reward_model": {"identifier": "judge"}}, inputs)
    assert (Path(here.inputs["judge"]["folder"]) / "artifacts" / "final_model" / "config.json").is_file()
    world.server.asked.clear()
    assert (await world.fetch({"reward_model": {"identifier": "org/judge"}}, inputs)).inputs == inputs
    assert world.server.asked == []


def named(content: bytes, name: str) -> tuple[str, str]:
    """The path by which the API calls an uploaded file, and its address there."""
    sha256 = hashlib.sha256(content).hexdigest()
    return f"/a/results/.inputs/{sha256}/{name}", f"api/v1/inputs/{sha256}/{name}"


async def test_a_file_that_was_uploaded_for_tasks_is_fetched_from_the_api(world: World) -> None:
    path, address = named(b"{}\n", "rows.jsonl")
    world.server.files[address] = b"{}\n"
    here = await world.fetch({"data": {"type": "jsonl", "path": path}})
    assert Path(here.fetched[path]).read_bytes() == b"{}\n"
    assert here.fetched[path].endswith(".jsonl")
    assert all(asked == "Bearer t" for asked in world.server.statuses_asked_with("Authorization"))


async def test_a_file_that_was_uploaded_is_read_where_it_lies_on_a_disk_that_is_shared(world: World) -> None:
    path, _ = named(b"{}\n", "rows.jsonl")
    here = world.results / path.removeprefix("/a/results/")
    here.parent.mkdir(parents=True)
    here.write_bytes(b"{}\n")
    assert (await world.fetch({"data": {"type": "jsonl", "path": path}})).fetched == {path: str(here)}
    assert (await world.fetch({"data": {"type": "jsonl", "path": str(here)}})).fetched == {}


@pytest.mark.parametrize("is_shared", [True, False])
async def test_an_uploaded_folder_is_a_folder_again(world: World, is_shared: bool) -> None:
    packed = archive({"config.json": b"{}", "w": b"w"})
    path, address = named(packed, "model.tar.gz")
    if is_shared:
        here = world.results / path.removeprefix("/a/results/")
        here.parent.mkdir(parents=True)
        here.write_bytes(packed)
    else:
        world.server.files[address] = packed
    fetched = (await world.fetch({"model": {"source": {"type": "local", "identifier": path}}})).fetched
    assert sorted(file.name for file in Path(fetched[path]).iterdir()) == ["config.json", "w"]


async def test_the_text_of_a_scratch_models_tokenizer_can_be_an_uploaded_file(world: World) -> None:
    path, address = named(b'{"text": "a"}\n', "text.jsonl")
    world.server.files[address] = b'{"text": "a"}\n'
    here = await world.fetch({"model": {"source": {"type": "scratch", "tokenizer_text": path}}})
    assert Path(here.fetched[path]).read_bytes() == b'{"text": "a"}\n'


async def test_documents_and_an_earlier_tasks_index_are_brought(world: World) -> None:
    world.server.files["guide.html"] = b"<p>hi</p>"
    world.publish_remotely("t1", {"artifacts/index/index.json": b"{}", "artifacts/index/vectors.npy": b"v"})
    url, index = world.server.url("guide.html"), "/elsewhere/results/t1/artifacts/index"
    here = await world.fetch({"taskType": "rag", "retrieval": {"documents": [{"url": url}, "a text, no path"], "index": index}})
    assert here.fetched[url].endswith(".html")
    assert (Path(here.fetched[index]) / "vectors.npy").read_bytes() == b"v"


async def test_a_store_of_vectors_lies_where_results_may_go_and_nowhere_else(world: World, tmp_path: Path) -> None:
    def spec(path: str) -> dict[str, Any]:
        return {"taskType": "rag", "retrieval": {"documents": ["a"], "path": path}}

    assert (await world.fetch(spec("stores/one"))).fetched == {"stores/one": str(world.results / "stores" / "one")}
    for outside in ("../up", str(tmp_path / "other"), ".cache/indexes", ".attempts"):
        with pytest.raises(TransferError, match=r"retrieval\.path .* cannot be used"):
            await world.fetch(spec(outside))
    world.fetcher.allowed_roots = (str(tmp_path / "other"),)
    assert (await world.fetch(spec(str(tmp_path / "other" / "s")))).fetched == {str(tmp_path / "other" / "s"): str(tmp_path / "other" / "s")}
