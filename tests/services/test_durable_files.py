"""Files that appear whole, whoever else writes them at the same moment."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mloc.services.durable_files import replace_file, write_durably

WRITERS = 4
ROUNDS = 50


def test_threads_that_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    # given several threads that begin at the same moment
    together = threading.Barrier(WRITERS)
    path, other = tmp_path / "note.json", tmp_path / "tail.json"

    def write(number: int) -> None:
        for _ in range(ROUNDS):
            together.wait(30)
            write_durably(path, [b"%d" % number] * 1000)
            replace_file(str(other), b"%d" % number * 1000)

    # when each writes its own content, then none fails
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(write, number) for number in range(WRITERS)]:
            done.result(60)
    # and what is there is one's whole content, and nothing else is left
    assert {path.read_bytes(), other.read_bytes()} <= {b"%d" % number * 1000 for number in range(WRITERS)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["note.json", "tail.json"]


def test_of_a_content_that_breaks_off_nothing_is_left_and_the_older_file_stays(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError("it broke off")

    (tmp_path / "note.json").write_bytes(b"older")
    with pytest.raises(ConnectionError):
        write_durably(tmp_path / "note.json", broken())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("note.json", b"older")]
