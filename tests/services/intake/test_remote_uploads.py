"""`mloc-intake submit --url` brings the local files that a task names to the API before it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mloc.services.artifacts.archives import unpack
from tests.services.intake.conftest import Cli
from tests.services.intake.served import Served

ROWS = b'{"prompt": "a"}\n'
TASK = """apiVersion: mloc/v1
kind: EchoTask
metadata: {name: hello}
spec:
  taskType: echo
  data: {jsonl: {path: data/rows.jsonl}}
"""


def write(name: str, content: bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def spec_of(cli: Cli, remote: Served, id: str) -> dict:
    return cli.json("show", id, "--url", remote.url)["spec"]


def inputs_of(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "results" / ".inputs").rglob("*") if path.is_file() and not path.name.startswith(".used"))


def test_a_data_file_is_brought_to_the_api_once_and_the_task_names_it_there(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("data/rows.jsonl", ROWS)
    write("task.yaml", TASK.encode())
    # when the task is submitted, and another with the same rows
    answer = cli.json("submit", "task.yaml", "--url", remote.url)
    cli.json("submit", "task.yaml", "--url", remote.url)
    # then it names what was uploaded, under its sha256, and nobody is told that workers must see this disk
    path = Path(spec_of(cli, remote, answer["task_id"])["data"]["path"])
    assert path == tmp_path / "results" / ".inputs" / hashlib.sha256(ROWS).hexdigest() / "rows.jsonl"
    assert path.read_bytes() == ROWS
    assert inputs_of(tmp_path) == [path]
    assert "workers must see" not in str(answer["warnings"])


def test_a_folder_is_brought_as_one_archive(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("model/config.json", b"{}")
    write("model/deep/weights", b"w")
    model = "taskType: inference\n  model: {source: {type: local, identifier: model}}"
    write("task.yaml", TASK.replace("taskType: echo", model).replace("{jsonl: {path: data/rows.jsonl}}", "[a]").encode())
    id = cli.json("submit", "task.yaml", "--url", remote.url)["task_id"]
    path = Path(spec_of(cli, remote, id)["model"]["source"]["identifier"])
    assert path.name == "model.folder.tar.zst"
    unpack(path, tmp_path / "unpacked")
    assert sorted(str(file.relative_to(tmp_path / "unpacked")) for file in (tmp_path / "unpacked").rglob("*") if file.is_file()) == [
        "config.json", "deep/weights",
    ]  # fmt: skip


def test_a_reward_model_beside_the_file_is_brought_too(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("judge/config.json", b"{}")
    text = TASK.replace("taskType: echo", "taskType: ppo\n  model: {source: {type: scratch}}\n  reward_model: {path: judge}").replace(
        "{jsonl: {path: data/rows.jsonl}}", "[a]"
    )
    write("task.yaml", text.encode())
    id = cli.json("submit", "task.yaml", "--url", remote.url)["task_id"]
    assert spec_of(cli, remote, id)["reward_model"]["path"].endswith("/judge.folder.tar.zst")


def test_a_missing_local_file_is_an_error_with_its_line_and_nothing_is_submitted(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("task.yaml", TASK.encode())
    assert cli("submit", "task.yaml", "--url", remote.url) == 2
    assert "task.yaml:6" in cli.err
    assert "the file is not there" in cli.err
    assert "TaskSubmitted" not in cli.log()
    # but an absolute path may be one of the workers' disks
    write("task.yaml", TASK.replace("data/rows.jsonl", "/data/rows.jsonl").encode())
    assert cli("submit", "task.yaml", "--url", remote.url) == 0


def test_a_file_that_cannot_be_uploaded_is_an_error_that_names_it(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("data/rows.jsonl/inside", b"x")
    (Path("data/rows.jsonl") / "out").symlink_to("/etc/hostname")
    write("task.yaml", TASK.encode())
    answer = cli.json("submit", "task.yaml", "--url", remote.url, code=2)
    assert "cannot be uploaded" in json.dumps(answer["error"])
    assert "data/rows.jsonl" in json.dumps(answer["error"])


def test_no_upload_sends_paths_and_says_so(cli: Cli, remote: Served, tmp_path: Path) -> None:
    file = write("data/rows.jsonl", ROWS).resolve()
    write("task.yaml", TASK.encode())
    answer = cli.json("submit", "task.yaml", "--no-upload", "--url", remote.url)
    assert spec_of(cli, remote, answer["task_id"])["data"]["path"] == str(file)
    assert "the workers must see it" in str(answer["warnings"])
    assert inputs_of(tmp_path) == []


def test_a_dry_run_uploads_nothing(cli: Cli, remote: Served, tmp_path: Path) -> None:
    write("data/rows.jsonl", ROWS)
    write("task.yaml", TASK.encode())
    answer = cli.json("submit", "task.yaml", "--dry-run", "--url", remote.url)
    assert "workers must see" not in str(answer["warnings"])
    assert inputs_of(tmp_path) == []
