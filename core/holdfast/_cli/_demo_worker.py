"""The worker of ``holdfast demo``: a small chat that speaks kimi-wire, and streams what it says.

A program of its own, run by its path: nothing of holdfast is in it, and nothing but the standard
library. It says its process id in its first event, so that whoever reads can kill it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

PACE = 0.06
"""Seconds between two words: slow enough to be watched, and to be killed between them."""

ANSWER = "I say one word at a time until I stop or am stopped."

Inbox = queue.SimpleQueue[dict[str, Any] | None]


def main() -> None:
    """Answer prompts until stdin ends."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # nobody reads any more: end, without a word
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    _tell("Started", pid=os.getpid())
    while (message := inbox.get()) is not None:
        match message.get("method"):
            case "prompt":
                _prompt(message, inbox)
            case "cancel":
                _answer(message, {})
            case method:
                _fail(message, -32601, f"no such method: {method}")


def _prompt(message: dict[str, Any], inbox: Inbox) -> None:
    _tell("TurnBegin", user_input=message["params"]["user_input"])
    for word in ANSWER.split():
        _tell("ContentPart", type="text", text=word + " ")
        try:
            other = inbox.get(timeout=PACE)
        except queue.Empty:
            continue
        if other is None:
            raise SystemExit
        if other.get("method") == "cancel":
            _answer(other, {})
            _answer(message, {"status": "cancelled"})
            return
        _fail(other, -32000, "another prompt is being answered")
    _tell("TurnEnd")
    _answer(message, {"status": "finished"})


def _read(inbox: Inbox) -> None:
    for line in sys.stdin.buffer:
        inbox.put(json.loads(line))
    inbox.put(None)


def _tell(kind: str, **payload: object) -> None:
    _write(method="event", params={"type": kind, "payload": payload})


def _answer(message: dict[str, Any], result: object) -> None:
    _write(id=message["id"], result=result)


def _fail(message: dict[str, Any], code: int, text: str) -> None:
    if "id" in message:
        _write(id=message["id"], error={"code": code, "message": text})


def _write(**fields: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
