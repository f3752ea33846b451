"""A coding agent in wire mode, as far as the messages go: prompt, cancel, event, request.

A prompt's words come back as events, one each. The word ``wait`` makes it wait for a cancel,
``approve`` makes it ask its client for an approval first. Run with ``python -I -S``.
"""

import json
import os
import sys
from typing import Any


def say(message: Any) -> None:
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def event(type: str, **payload: Any) -> None:
    say({"method": "event", "params": {"type": type, "payload": payload}})


def hear() -> Any:
    line = sys.stdin.buffer.readline()
    if not line:
        raise SystemExit
    return json.loads(line)


def wait_for_cancel() -> None:
    while (message := hear()).get("method") != "cancel":
        pass
    event("StepInterrupted")
    say({"id": message["id"], "result": {}})


def ask_for_approval(number: int) -> None:
    id = f"approval-{number}"
    payload = {"id": id, "sender": "Shell", "description": "rm -r build"}
    say({"id": id, "method": "request", "params": {"type": "ApprovalRequest", "payload": payload}})
    while (message := hear()).get("id") != id:
        pass
    event("ApprovalResponse", response=message["result"]["response"])


def prompt(id: str, words: list[str]) -> None:
    event("TurnBegin", pid=os.getpid())
    status = "finished"
    for number, word in enumerate(words):
        if word == "approve":
            ask_for_approval(number)
        elif word == "wait":
            wait_for_cancel()
            status = "cancelled"
            break
        else:
            event("ContentPart", text=word)
    say({"id": id, "result": {"status": status}})


while True:
    request = hear()
    if request.get("method") == "prompt":
        prompt(request["id"], request["params"]["user_input"].split())
    elif "id" in request:
        say({"id": request["id"], "error": {"code": -32601, "message": "no such method"}})
