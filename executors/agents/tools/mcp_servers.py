"""Tools of MCP servers: a program that is started for each question and spoken to over its streams, or a server behind a URL.

    {mcp: {command: my-server, args: [--stdio], env: {TOKEN: "${env.MCP_TOKEN}"}}}
    {mcp: {url: "https://tools.example.org/mcp", headers: {Authorization: "Bearer ${env.MCP_TOKEN}"}, tools: [search]}}

A program runs with the worker's own rights: who may submit tasks may run it. Of the worker's environment it gets what every program needs, no more.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from typing import Any, TypeVar

from langchain_core.tools import BaseTool, StructuredTool
from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.executors.agents.tools.toolbox import Kind, Place
from mloc.executors.contract import ExecutorError

Value = TypeVar("Value")


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """`tools`: only these of the server's; `timeout`: seconds for its start and for each call; `output`: characters that are shown."""

    name: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] = {}
    tools: tuple[str, ...] = ()
    timeout: float = 30.0
    output: int = 8000


def _make(options: Options, place: Place, stack: ExitStack) -> Iterable[BaseTool]:
    session = Session(options)
    stack.callback(session.close)
    offered = session.open(max(0.1, min(options.timeout, place.left_sec())))
    if unknown := [name for name in options.tools if name not in {tool.name for tool in offered}]:
        known = ", ".join(tool.name for tool in offered) or "none"
        raise ExecutorError("UnknownTool", f"agent.tools: the MCP server {_named(options)} has no tool {', '.join(unknown)}; it has {known}")
    return [_tool(tool, session, options, place) for tool in offered if not options.tools or tool.name in options.tools]


def _tool(offered: Any, session: Session, options: Options, place: Place) -> BaseTool:
    def call(**arguments: Any) -> str:
        text, is_error = session.call(offered.name, arguments, max(0.1, min(options.timeout, place.left_sec())))
        shown = text if len(text) <= options.output else f"{text[: options.output]}\n(cut: {len(text)} characters)"
        return f"error: {shown}" if is_error else shown

    schema = {"type": "object", "properties": {}, **(offered.input_schema or {})}
    return StructuredTool.from_function(call, name=offered.name, description=offered.description or offered.name, args_schema=schema)


class Session:
    """The connection, on a loop and a thread of its own: the agent's tools are called from threads without one."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True)
        self._thread.start()
        self._done: asyncio.Event = asyncio.Event()
        self._client: Any = None
        self._living: Any = None

    def open(self, timeout_sec: float) -> list[Any]:
        """The tools that the server offers. Raises ExecutorError where it does not come up."""
        ready: asyncio.Future[list[Any]] = self._loop.create_future()
        self._living = asyncio.run_coroutine_threadsafe(self._live(ready), self._loop)
        try:
            return self._wait(asyncio.wait_for(asyncio.shield(ready), timeout_sec), timeout_sec + 5)
        except Exception as error:  # whatever the server's end or the client's says
            why = "it did not answer in time" if isinstance(error, TimeoutError) else _cause(error)
            raise ExecutorError("McpServer", f"agent.tools: the MCP server {_named(self._options)} cannot be used: {why}", retryable=True) from error

    def call(self, name: str, arguments: dict[str, Any], timeout_sec: float) -> tuple[str, bool]:
        """(what it gave, as text; whether that is an error)."""
        result = self._wait(self._client.call_tool(name, arguments, read_timeout_seconds=timeout_sec), timeout_sec + 5)
        parts = [getattr(part, "text", None) or f"({getattr(part, 'type', 'something')} that cannot be shown)" for part in result.content]
        return "\n".join(parts), bool(result.is_error)

    def close(self) -> None:
        """End the connection, and the program."""
        self._loop.call_soon_threadsafe(self._done.set)
        if self._living is not None:
            try:
                self._living.result(10)
            except Exception:  # it ended badly, and nobody needs it any more
                self._living.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _wait(self, work: Coroutine[Any, Any, Value], timeout_sec: float) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_sec)

    async def _live(self, ready: asyncio.Future[list[Any]]) -> None:
        """Opened and closed by one task, as the client's scopes want it."""
        from mcp import Client

        try:
            async with Client(_server(self._options)) as client:
                self._client = client
                ready.set_result(list((await client.list_tools()).tools))
                await self._done.wait()
        except Exception as error:  # the same; whoever waits for the tools says it
            if ready.done():
                raise
            ready.set_exception(error)


def _server(options: Options) -> Any:
    if options.command:
        from mcp import StdioServerParameters

        return StdioServerParameters(command=options.command, args=list(options.args), env=options.env or None, cwd=options.cwd)
    if not options.headers:
        return options.url
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    return streamable_http_client(options.url, http_client=httpx2.AsyncClient(headers=options.headers, timeout=options.timeout))


def _cause(error: BaseException) -> str:
    """The first plain error in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500]


def _named(options: Options) -> str:
    return options.name or options.command or options.url


def _check(options: Options, _: TaskSpec) -> None:
    if bool(options.command) == bool(options.url):
        raise ExecutorError("BadSetting", "agent.tools: mcp: give it either a command or a url")
    if options.command and shutil.which(options.command) is None:
        raise ExecutorError("McpServer", f"agent.tools: mcp: there is no program {options.command!r} on the worker")
    try:
        from mcp import Client
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'MCP servers need the library mcp: pip install "mloc[agent]" (on the worker)') from error
    assert Client


KIND = Kind(Options, _make, _check)
