"""Attacks on the sandbox as an agent's Python has it: no programs, no network, a folder of its own. Each has to fail, and to harm nobody."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mloc.executors.sandbox import Limits, Sandbox
from mloc.executors.system_calls import refusing_program

LIMITS = Limits(call_sec=60, programs=False, memory_bytes=1 << 30, files_bytes=4 << 20, output_chars=2000)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("outer") / "box"
    folder.mkdir()
    with Sandbox(LIMITS, folder=folder) as sandbox:
        if sys.platform != "linux" or sandbox.held != {"files", "network", "calls"}:
            pytest.skip(f"this system holds only {sorted(sandbox.held)} of files, network and calls")
        yield sandbox


def error(box: Sandbox, code: str) -> str:
    return box.run(f"import os, signal, socket, resource, subprocess\n{code}").error


def test_ordinary_code_with_threads_and_the_usual_modules_works(box: Sandbox) -> None:
    code = "import json, math, threading\nt = threading.Thread(target=print, args=('from a thread',))\nt.start(); t.join()\nmath.comb(5, 2)"
    assert box.run(code).output == "from a thread\n10\n"
    assert box.run("open('a.txt', 'w').write('hi')\nopen('a.txt').read()").output == "'hi'\n"
    assert box.run("import os\nos.mkdir('down'); os.rename('a.txt', 'down/b.txt'); os.listdir('down')").output == "['b.txt']\n"


@pytest.mark.parametrize("code", ["os.fork()", "os.posix_spawn('/bin/true', ['true'], {})", "os.execv('/bin/true', ['true'])",
                                  "subprocess.run(['ls'])", "__import__('multiprocessing').Process(target=print).start()"])  # fmt: skip
def test_no_process_can_be_started_so_there_is_no_fork_bomb(box: Sandbox, code: str) -> None:
    assert "Error" in error(box, code)


def test_memory_cannot_be_had_without_end(box: Sandbox) -> None:
    assert "MemoryError" in error(box, "x = []\nwhile True: x.append(bytearray(64 << 20))")
    box.run("x = None")
    assert "not allowed to raise" in error(box, "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))")
    assert "Error" in error(box, "os.memfd_create('x')")


@pytest.mark.parametrize("code", ["socket.socket()", "socket.create_connection(('127.0.0.1', 80))", "socket.socket(socket.AF_UNIX)",
                                  "__import__('urllib.request').request.urlopen('http://127.0.0.1:80/')"])  # fmt: skip
def test_there_is_not_even_a_socket(box: Sandbox, code: str) -> None:
    assert "Operation not permitted" in error(box, code)


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/proc/{parent}/environ", "/root/.bashrc", __file__])
def test_files_of_the_machine_cannot_be_read(box: Sandbox, path: str) -> None:
    assert "PermissionError" in error(box, f"open({path.format(parent=os.getpid())!r}).read()")


def test_nothing_is_written_changed_or_linked_outside_of_the_folder(box: Sandbox, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("before")
    os.chmod(outside, 0o600)
    name = repr(str(outside))
    for code in (
        f"open({name}, 'w')", f"os.unlink({name})", f"os.rename({name}, 'mine')", f"os.chmod({name}, 0o777)", f"os.utime({name}, (0, 0))",
        f"os.link({name}, 'hard')", f"os.truncate({name}, 0)", f"os.mkdir({str(tmp_path / 'new')!r})", "os.mknod('zero', 0o20600, os.makedev(1, 5))",
    ):  # fmt: skip
        assert "Error" in error(box, code), code
    assert outside.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["outside.txt"]
    assert outside.stat().st_mode & 0o777 == 0o600
    assert "Error" in error(box, f"os.path.lexists('link') or os.symlink({name}, 'link')\nopen('link').read()")


@pytest.mark.parametrize("code", ["os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.killpg(os.getpgid(0), 19)", "os.setsid()",
                                  "signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 9)"])  # fmt: skip
def test_nothing_can_be_killed_or_left(box: Sandbox, code: str) -> None:
    assert "Error" in error(box, code)


def test_its_parent_cannot_be_traced_nor_outlived(box: Sandbox) -> None:
    assert box.run("import ctypes, os\nctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)").output == "-1\n"
    assert box.run("import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)").output == "-1\n"
    assert box.run("import ctypes\nctypes.CDLL(None).unshare(0x10000000)").output == "-1\n"


def test_neither_a_file_nor_the_output_grows_without_end(box: Sandbox) -> None:
    assert "File too large" in error(box, "open('big', 'wb').write(b'0' * (8 << 20))")
    endless = box.run("while True: print('x' * 10_000)")
    assert endless.error
    assert len(endless.output) < 3000


def test_a_machine_without_a_table_has_no_program_and_more_is_refused_where_less_is_allowed() -> None:
    assert refusing_program("riscv64", network=False, programs=False) == b""
    strict, open_ = (refusing_program("x86_64", network=allowed, programs=allowed) for allowed in (False, True))
    assert len(strict) > len(open_) > 0
    assert len(strict) % 8 == 0
    assert refusing_program("aarch64", network=False, programs=False)
