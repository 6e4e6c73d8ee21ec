"""What the API tells of earlier attempts is what it can give."""

from pathlib import Path

from mloc.core.task import Task
from mloc.services.intake.task_files import find_attempt_file
from mloc.services.transfers.resuming import left_files


def test_what_attempts_left_in_the_folder_and_what_was_uploaded_are_listed_and_can_be_had(tmp_path: Path) -> None:
    # given an attempt that ran in this folder, and one that was uploaded to it, and what is nobody's business
    of_task = tmp_path / ".attempts" / "t1"
    kept = {
        "rows/attempt-1.jsonl": (1, "rows/attempt-1.jsonl"),
        "1/artifacts/checkpoints/checkpoint-5/inner/w": (1, "artifacts/checkpoints/checkpoint-5/inner/w"),
        "2/rows/attempt-2.000000000000000.jsonl": (2, "rows/attempt-2.000000000000000.jsonl"),
        "2/checkpoints/checkpoint-9.files.json": (2, "checkpoints/checkpoint-9.files.json"),
    }
    for name in (*kept, "rows/attempt-x.jsonl", "1/artifacts/final_model/config.json", "2/checkpoints/checkpoint-9/w", "replaced-1/responses.json"):
        (of_task / name).parent.mkdir(parents=True, exist_ok=True)
        (of_task / name).write_text(name)
    # when it is asked for
    left = left_files(tmp_path, "t1")
    # then each that says how far an attempt was is named, with its size, and is to be had under that name
    assert {(file.attempt, file.name) for file in left} == set(kept.values())
    for path, (attempt, name) in kept.items():
        found = find_attempt_file(tmp_path, Task("t1", "echo"), attempt, name)
        assert found is not None
        assert found.path == of_task / path
    assert all(file.size for file in left)
    assert left_files(tmp_path, "t2") == []
