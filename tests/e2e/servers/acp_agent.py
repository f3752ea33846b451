"""A small agent on the Agent Client Protocol's Python package: it echoes, and may hang.

The prompt ``hang`` makes it send one update with its process id, and never answer.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

from acp import (
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    run_agent,
    update_agent_message_text,
)
from acp.interfaces import Client


class EchoAgent:
    _client: Client

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **kwargs: Any) -> InitializeResponse:
        return InitializeResponse(protocol_version=protocol_version)

    async def new_session(self, cwd: str, **kwargs: Any) -> NewSessionResponse:
        return NewSessionResponse(session_id=f"session-in-{cwd}")

    async def prompt(self, session_id: str, prompt: list[Any], **kwargs: Any) -> PromptResponse:
        for block in prompt:
            hangs = block.text == "hang"
            text = str(os.getpid()) if hangs else block.text
            await self._client.session_update(session_id, update_agent_message_text(text))
            if hangs:
                await asyncio.Event().wait()
        return PromptResponse(stop_reason="end_turn")


if __name__ == "__main__":
    asyncio.run(run_agent(cast(Any, EchoAgent())))
