"""An MCP server for the tests: `python mcp_server.py` over its streams, `python mcp_server.py http PORT` over HTTP."""

import os
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("sums")


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


@server.tool()
def environment(name: str) -> str:
    """Tells a variable of its environment."""
    return os.environ.get(name, "(not set)")


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no luck")


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
