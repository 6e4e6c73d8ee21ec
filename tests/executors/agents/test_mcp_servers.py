"""Tools of real MCP servers, over streams and over HTTP."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason='MCP servers: pip install "mloc[agent]"')
pytest.importorskip("langchain_core", reason='agents need langchain: pip install "mloc[agent]"')

from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.mcp_servers import KIND, Options
from mloc.executors.agents.tools.toolbox import Place
from mloc.executors.contract import ExecutorError

pytestmark = pytest.mark.extras

SERVER = str(Path(__file__).with_name("mcp_server.py"))
STDIO: dict[str, Any] = {"command": sys.executable, "args": (SERVER,), "timeout": 90.0}
SPEC = TaskSpec(task_type="agent")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    with ExitStack() as stack:

        def open_(**options: Any) -> dict[str, Any]:
            place = Place(tmp_path, lambda: 100.0, lambda: False, print, None)  # type: ignore[arg-type]
            return {tool.name: tool for tool in KIND.make(Options(**options), place, stack)}

        yield open_


def test_a_program_offers_tools_over_its_streams_and_gets_nothing_of_our_environment(
    tools: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "very secret")
    offered = tools(**STDIO, env={"GIVEN": "yes"})
    assert sorted(offered) == ["add", "environment", "fail"]
    assert offered["add"].description == "Adds two numbers."
    assert offered["add"].invoke({"a": 2, "b": 3}) == "5"
    assert offered["environment"].invoke({"name": "GIVEN"}) == "yes"
    assert offered["environment"].invoke({"name": "HUB_TOKEN"}) == "(not set)"
    assert offered["fail"].invoke({}).startswith("error: ")


def test_only_the_tools_that_are_named_are_offered(tools: Callable[..., dict[str, Any]]) -> None:
    assert sorted(tools(**STDIO, tools=("add",))) == ["add"]
    with pytest.raises(ExecutorError, match="has no tool sub; it has add, environment, fail"):
        tools(**STDIO, tools=("sub",))


def test_a_server_behind_a_url_is_used_with_its_headers(tools: Callable[..., dict[str, Any]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen([sys.executable, SERVER, "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port}/mcp"
        assert tools(url=url)["add"].invoke({"a": 1, "b": 1}) == "2"
        assert tools(url=url, headers={"X-Key": "1"}, name="with key")["add"].invoke({"a": 1, "b": 2}) == "3"
    finally:
        child.kill()
        child.wait()


def test_a_server_that_does_not_come_up_says_so(tools: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ExecutorError, match="the MCP server broken cannot be used"):
        tools(name="broken", command=sys.executable, args=("-c", "raise SystemExit(3)"), timeout=20.0)


def test_what_can_lead_to_no_server_is_said_before_a_model_is_loaded() -> None:
    for options, said in ((Options(), "either a command or a url"), (Options(command="no-such-program"), "no program 'no-such-program'")):
        with pytest.raises(ExecutorError, match=said):
            KIND.check(options, SPEC)
