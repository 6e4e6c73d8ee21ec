"""The results of shards become one: items in the order of the input, usage summed."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core.events import INLINE_RESULT_BYTES
from mloc.core.language.data_spec import ExportField, JsonlExport
from mloc.core.measured import measured
from mloc.core.sharding import shard_range
from mloc.services.results.folders import sealed
from mloc.services.results.manifest import Origin
from mloc.services.results.merging import Merge, Merged, Part, merge

ORIGIN = Origin("t")


def result_of(outputs: list[Any], **more: Any) -> bytes:
    items = [{"index": index, "output": output} for index, output in enumerate(outputs)]
    usage = {"prompt_tokens": len(outputs), "num_requests": len(outputs), "latency_sec": float(len(outputs))}
    return msgspec.json.encode({"ok": True, "model": "m", "items": items, "usage": usage, **more})


def merged(root: Path, parts: list[bytes]) -> Merged:
    return merge(root, Merge(ORIGIN, "t", tuple(Part(f"t.s{index}", f"t/shards/{index}", part) for index, part in enumerate(parts))))


@given(outputs=st.lists(st.text(max_size=5) | st.integers(), max_size=60), shards=st.integers(1, 9))
def test_merging_the_shards_of_any_input_gives_its_items_in_order(tmp_path_factory: pytest.TempPathFactory, outputs: list[Any], shards: int) -> None:
    # given an input split as the scheduler splits it
    ranges = [shard_range(index, shards, len(outputs)) for index in range(shards)]
    # when the shards' results are merged
    whole = msgspec.json.decode(merged(Path("/nonexistent"), [result_of([outputs[i] for i in of]) for of in ranges]).result)
    # then it is the result of the whole
    assert [item["output"] for item in whole["items"]] == outputs
    assert [item["index"] for item in whole["items"]] == list(range(len(outputs)))
    assert whole["usage"] == {"prompt_tokens": len(outputs), "num_requests": len(outputs), "latency_sec": max(len(of) for of in ranges)}
    assert (whole["ok"], whole["model"]) == (True, "m")


def test_a_large_result_is_written_and_described(tmp_path: Path) -> None:
    # given shards whose results are files, larger together than an event may be
    for index in range(3):
        folder = tmp_path / "t" / "shards" / str(index)
        (folder / "artifacts").mkdir(parents=True)
        (folder / "responses.json").write_bytes(result_of(["x" * 100] * 300))
        (folder / "artifacts" / "part.bin").write_bytes(b"p")
    # when they are merged
    end = merged(tmp_path, [b"", b"", b""])
    # then the file is the result, complete with manifest, and nothing of it is in the event
    written = (tmp_path / "t" / "responses.json").read_bytes()
    assert end == Merged(b"", hashlib.sha256(written).hexdigest(), len(written), files=True)
    assert len(written) > INLINE_RESULT_BYTES
    assert [item["index"] for item in msgspec.json.decode(written)["items"]] == list(range(900))
    manifest = msgspec.json.decode((tmp_path / "t" / "manifest.json").read_bytes())
    assert "shards/2/artifacts/part.bin" in {file["path"] for file in manifest["files"]}
    assert sealed(tmp_path / "t") == ("t", True, 0)


@pytest.mark.parametrize(("rows", "shards"), [(0, 1), (1, 3), (40, 5), (700, 2), (7, 7)])
def test_rows_in_lines_of_their_own_merge_as_others_do(tmp_path: Path, rows: int, shards: int) -> None:
    root, outputs = tmp_path, [f"{row},\n{{}}" for row in range(rows)]
    plain = []
    for index in range(shards):
        part = [outputs[at] for at in shard_range(index, shards, len(outputs))]
        folder = root / "t" / "shards" / str(index)
        folder.mkdir(parents=True)
        plain.append(result_of(part))
        items = b",\n".join(msgspec.json.encode({"index": at, "output": output}) for at, output in enumerate(part))
        usage = {"prompt_tokens": len(part), "num_requests": len(part), "latency_sec": float(len(part))}
        (folder / "responses.json").write_bytes(b'{"ok":true,"model":"m","items":[\n' + items + b'\n],"usage":' + msgspec.json.encode(usage) + b"}")
    merged(root, [b""] * shards)
    assert msgspec.json.decode((root / "t" / "responses.json").read_bytes()) == msgspec.json.decode(merged(Path("/nonexistent"), plain).result)


def test_a_shards_file_that_ends_in_the_middle_fails_the_merge(tmp_path: Path) -> None:
    folder = tmp_path / "t" / "shards" / "0"
    folder.mkdir(parents=True)
    (folder / "responses.json").write_bytes(b'{"ok":true,"items":[\n{"index":0},\n{"index":1}')
    with pytest.raises(msgspec.DecodeError, match="ends in the middle"):
        merged(tmp_path, [b""])


def test_a_merged_result_is_exported_as_a_training_set(tmp_path: Path) -> None:
    parts = tuple(Part(f"t.s{index}", f"t/shards/{index}", result_of(outputs)) for index, outputs in enumerate((["a", ""], ["c"])))
    export = JsonlExport(path="set.jsonl", fields={"text": ExportField(source="output")}, required_fields=("text",))
    for _ in range(2):  # also when it is done again
        end = merge(tmp_path, Merge(ORIGIN, "t", parts, export))
        place = "artifacts/set.jsonl"
        said = {"path": str(tmp_path / "t" / place), "url": f"/api/v1/results/t/files/{place}", "rows": 2, "skipped": 1}
        assert msgspec.json.decode(end.result)["jsonl_export"] == said
        assert (tmp_path / "t" / place).read_bytes() == b'{"text":"a"}\n{"text":"c"}\n'
        files = {file["path"] for file in msgspec.json.decode((tmp_path / "t" / "manifest.json").read_bytes())["files"]}
        assert files == {"responses.json", place}


def test_a_small_result_with_artifacts_is_both_inline_and_written(tmp_path: Path) -> None:
    (tmp_path / "t" / "shards" / "0").mkdir(parents=True)
    end = merged(tmp_path, [result_of(["a"]), result_of(["b"])])
    assert end.files
    assert (tmp_path / "t" / "responses.json").read_bytes() == end.result


def test_what_differs_between_shards_is_kept_by_shard(tmp_path: Path) -> None:
    end = msgspec.json.decode(merged(tmp_path, [result_of([], note="a"), result_of([], note="b")]).result)
    assert end["shards"] == [{"note": "a"}, {"note": "b"}]
    assert end["model"] == "m"


def metrics(values: list[float]) -> dict[str, Any]:
    return {"accuracy": msgspec.structs.asdict(measured(values, len(values)))} if values else {}


def test_metrics_of_an_evaluation_are_those_of_all_rows(tmp_path: Path) -> None:
    # given shards of different sizes, two of them with the same numbers, one without rows
    parts = [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0], []]
    end = merged(tmp_path, [result_of(part, metrics=metrics(part), harness="exact_match") for part in parts])
    # then the whole has what an evaluation of all rows has, and nothing by shard
    whole = msgspec.json.decode(end.result)
    assert whole["metrics"] == {"accuracy": msgspec.structs.asdict(measured([one for part in parts for one in part], 9).rounded())}
    assert whole["harness"] == "exact_match"
    assert "shards" not in whole


def test_metrics_of_another_kind_stay_by_shard(tmp_path: Path) -> None:
    speeds: list[dict[str, Any]] = [{"tokens_per_sec": 5.0}, {"tokens_per_sec": 7.0}]
    whole = msgspec.json.decode(merged(tmp_path, [result_of(["a"], metrics=speed) for speed in speeds]).result)
    assert whole["shards"] == [{"metrics": speed} for speed in speeds]
    assert "metrics" not in whole


def test_an_index_that_every_shard_made_is_that_of_the_whole(tmp_path: Path) -> None:
    made = [{"key": "k", "path": f"/r/t/shards/{index}/artifacts/index", "passages": 4, "embedded": 4 - 4 * index} for index in range(2)]
    whole = msgspec.json.decode(merged(tmp_path, [result_of(["a"], index=one) for one in made]).result)
    assert whole["index"] == {"key": "k", "path": "/r/t/shards/0/artifacts/index", "passages": 4, "embedded": 4}
    other = [{**made[0], "key": "k2"}, made[1]]
    assert "index" not in msgspec.json.decode(merged(tmp_path, [result_of(["a"], index=one) for one in other]).result)


def shard_with_vectors(root: Path, index: int, vectors: Any) -> bytes:
    numpy = pytest.importorskip("numpy")
    file = root / "t" / "shards" / str(index) / "artifacts" / "embeddings.npy"
    file.parent.mkdir(parents=True)
    numpy.save(file, vectors)
    said = {"file": "artifacts/embeddings.npy", "path": str(file), "rows": len(vectors), "dimension": 3, "dtype": "float32"}
    return result_of(["x"] * len(vectors), embeddings=said)


def test_vectors_of_all_shards_become_one_file(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    vectors = numpy.arange(21, dtype="<f4").reshape(7, 3)
    parts = [shard_with_vectors(tmp_path, index, part) for index, part in enumerate((vectors[:3], vectors[3:3], vectors[3:]))]
    end = merged(tmp_path, parts)
    whole = msgspec.json.decode(end.result)
    file = tmp_path / "t" / "artifacts" / "embeddings.npy"
    assert whole["embeddings"] == {"file": "artifacts/embeddings.npy", "path": str(file), "rows": 7, "dimension": 3, "dtype": "float32"}
    assert (numpy.load(file) == vectors).all()
    assert "shards" not in whole
    assert "artifacts/embeddings.npy" in (tmp_path / "t" / "manifest.json").read_text()


def test_a_damaged_file_of_vectors_fails_the_merge(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    parts = [shard_with_vectors(tmp_path, index, numpy.zeros((2, 3), "<f4")) for index in range(2)]
    cut = tmp_path / "t" / "shards" / "1" / "artifacts" / "embeddings.npy"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(OSError, match="is damaged"):
        merged(tmp_path, parts)


def test_items_without_an_index_get_one_and_keep_the_rest(tmp_path: Path) -> None:
    part = b'{"items":[{"output":"a","index":9,"metadata":{"k":1.50}},"plain"],"ok":true}'
    assert msgspec.json.decode(merged(tmp_path, [part]).result)["items"] == [{"index": 0, "output": "a", "metadata": {"k": 1.5}}, "plain"]


def test_one_shard_that_is_not_ok_makes_the_whole_not_ok(tmp_path: Path) -> None:
    assert msgspec.json.decode(merged(tmp_path, [result_of([]), b'{"ok":false,"items":[]}']).result)["ok"] is False


def test_a_missing_shard_fails_the_merge(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        merged(tmp_path, [result_of([]), b""])


def test_merging_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "t" / "shards" / "0").mkdir(parents=True)
    first = merged(tmp_path, [result_of(["a"]), result_of(["b"])])
    manifest = (tmp_path / "t" / "manifest.json").read_bytes()
    assert merged(tmp_path, [result_of(["a"]), result_of(["b"])]) == first
    assert (tmp_path / "t" / "manifest.json").read_bytes() == manifest
