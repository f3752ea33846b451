"""A small server on the official MCP Python SDK, as its users write them."""

from __future__ import annotations

import os

import anyio
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("holdfast-e2e")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def echo(text: str) -> str:
    """Give back what came."""
    return text


@server.tool()
async def hang(ctx: Context) -> str:
    """Report our process id as progress, and never answer."""
    await ctx.report_progress(0.0, None, str(os.getpid()))
    await anyio.sleep_forever()
    return "never"


if __name__ == "__main__":
    server.run("stdio")
