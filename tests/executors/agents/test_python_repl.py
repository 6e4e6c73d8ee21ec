"""The tool `python_repl` as an agent has it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')

from mloc.executors.agents.tools import python_repl
from mloc.executors.agents.tools.toolbox import Place
from mloc.executors.contract import ExecutorError

pytestmark = pytest.mark.extras

Run = Callable[..., str]


@pytest.fixture
def repl(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Opens the tool with its options; `left` seconds remain for the question."""
    with ExitStack() as stack:

        def open_(left: float = 100.0, over: Callable[[], bool] = lambda: False, **options: Any) -> Run:
            place = Place(tmp_path, lambda: left, over, print, None)  # type: ignore[arg-type]
            (tool,) = python_repl.KIND.make(python_repl.Options(**{"timeout": 30.0, "isolation": "best_effort", **options}), place, stack)
            return lambda code: str(tool.invoke({"code": code}))

        yield open_


def test_names_and_files_stay_from_call_to_call_also_when_threads_come_and_go(repl: Callable[..., Run]) -> None:
    run = repl()
    said: list[str] = []
    for code in ("x = 6\nopen('f', 'w').write('kept')", "print('so')\nx * 7", "open('f').read()", "y = 1"):
        caller = threading.Thread(target=lambda code=code: said.append(run(code)))
        caller.start()
        caller.join()
    assert said == ["4", "so\n42", "'kept'", "(nothing was printed)"]


def test_an_error_is_told_with_what_was_printed_before(repl: Callable[..., Run]) -> None:
    assert repl()("print('so')\n1 / 0") == "so\nerror: ZeroDivisionError: division by zero (line 2)"


def test_code_that_takes_too_long_is_ended_by_its_own_time_and_by_that_of_the_question(repl: Callable[..., Run]) -> None:
    assert repl(timeout=0.5)("while True: pass") == "error: it took longer than 0.5 s (what was defined before is gone)"
    assert repl(left=0.5)("while True: pass").startswith("error: it took longer than 0.5 s")
    stop = threading.Event()
    run = repl(over=stop.is_set)
    threading.Timer(0.3, stop.set).start()
    assert "it was stopped" in run("while True: pass")


def test_a_folder_that_is_too_full_is_emptied(repl: Callable[..., Run], tmp_path: Path) -> None:
    run = repl(folder="8Mi")
    assert "the files were more than 8Mi, and are gone" in run("for i in range(10_000): open(f'f{i}', 'wb').write(b'0' * (4 << 20))")
    assert os.listdir(tmp_path) == []
    assert run("1 + 1") == "2"


def test_where_the_kernel_holds_too_little_nothing_runs_unless_that_was_asked_for(
    repl: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_repl, "HELD", {"time machines": "the past can be reached"})
    with pytest.raises(ExecutorError, match=r"because the past can be reached; ask for it with .*best_effort"):
        repl(isolation="required")("open('ran', 'w')")
    assert os.listdir(tmp_path) == []
    assert repl()("1") == "1"
