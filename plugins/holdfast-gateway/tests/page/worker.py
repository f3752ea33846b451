"""A worker in wire mode that does what its prompt says. Run with ``python -I -S -u``.

``hello``: three words, then the answer. ``talk``: words, until it is cancelled or killed.
``hostile``: texts that would do harm if they were more than text. ``lines N``: N lines of output.
``count N``: N numbered notifications. ``ask``: asks for an approval. ``tool``: calls a tool.
``stderr TEXT``: writes to stderr. With ``plain`` as its argument it echoes lines instead.
"""

import json
import os
import select
import sys
from typing import Any

HOSTILE = [
    "<img src=x onerror=\"document.title='owned';alert(1)\">",
    "<script>document.title='owned'</script>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 bell",
    "user\u202etxt.exe\u202c \u2066isolate\u2069 \u200bzero",
    "back\x08space \x9b31m c1 \r return",
]


def say(**message: Any) -> None:
    # Not escaped as \uXXXX: the characters themselves shall pass.
    text = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def event(kind: str, /, **payload: Any) -> None:
    say(method="event", params={"type": kind, "payload": payload})


def heard(timeout: float | None = None) -> Any:
    """The next message, or None if none comes in time."""
    if not select.select([0], [], [], timeout)[0]:
        return None
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)  # unbuffered: select must see what is left
        if not byte:
            raise SystemExit
        line += byte
    return json.loads(line)


def talk() -> str:
    number = 0
    while True:
        number += 1
        event("ContentPart", type="text", text=f"word{number} ")
        other = heard(0.05)
        if other is not None and other.get("method") == "cancel":
            say(id=other["id"], result={})
            return "cancelled"


def hostile() -> None:
    for text in HOSTILE:
        event("ContentPart", type="text", text=text + "\n")
        event("ToolCall", id=text, function={"name": text, "arguments": text})
        event("ToolResult", tool_call_id=text, return_value={"output": text, "is_error": True})
        event(text, any=text)
        say(method=text, params={text: text})
        sys.stdout.write(text.replace("\n", " ") + "\n")
        sys.stderr.write(text + "\n")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"caf\xe9 <b>bytes</b>\n")
    sys.stdout.buffer.flush()
    sys.stderr.flush()


def ask(number: int) -> str:
    id = f"approval-{number}"
    payload = {"id": id, "sender": "Shell", "description": "rm -r build"}
    say(id=id, method="request", params={"type": "ApprovalRequest", "payload": payload})
    while (message := heard()).get("id") != id:
        pass
    return message["result"]["response"]


def prompt(id: Any, text: str) -> None:
    event("TurnBegin", user_input=text)
    verb, _, rest = text.partition(" ")
    status = "finished"
    if verb == "hello":
        for word in ("Hello ", "to ", "you."):
            event("ContentPart", type="text", text=word)
    elif verb == "talk":
        status = talk()
    elif verb == "hostile":
        hostile()
    elif verb == "lines":
        for number in range(int(rest)):
            sys.stdout.write(f"line {number}\n")
        sys.stdout.flush()
    elif verb == "count":
        for number in range(int(rest)):
            sys.stdout.write(
                f'{{"jsonrpc":"2.0","method":"n{number}","params":{{"i":{number}}}}}\n'
            )
        sys.stdout.flush()
    elif verb == "ask":
        status = ask(1)
    elif verb == "tool":
        call = {"name": "Shell", "arguments": '{"command": "ls"}'}
        event("ToolCall", type="function", id="t1", function=call)
        event("ToolResult", tool_call_id="t1", return_value={"output": "README.md"})
    elif verb == "stderr":
        sys.stderr.write(rest + "\n")
        sys.stderr.flush()
    elif verb == "fail":
        say(id=id, error={"code": -32000, "message": rest})
        return
    event("TurnEnd")
    say(id=id, result={"status": status})


def agent(id: Any, params: dict[str, Any]) -> None:
    """A turn of the Agent Client Protocol: the prompt comes back in two pieces."""
    text = params["prompt"][0]["text"]
    for piece in ("You said: ", text):
        chunk = {"type": "text", "text": piece}
        update = {"sessionUpdate": "agent_message_chunk", "content": chunk}
        say(method="session/update", params={"sessionId": params["sessionId"], "update": update})
    say(id=id, result={"stopReason": "end_turn"})


def main() -> None:
    if sys.argv[1:] == ["plain"]:
        for line in sys.stdin:
            sys.stdout.write(line)
            sys.stdout.flush()
        return
    event("Started", pid=os.getpid())
    while True:
        request = heard()
        if request.get("method") == "prompt":
            prompt(request["id"], request["params"]["user_input"])
        elif request.get("method") == "session/new":
            say(id=request["id"], result={"sessionId": "s1"})
        elif request.get("method") == "session/prompt":
            agent(request["id"], request["params"])
        elif "id" in request:
            say(id=request["id"], result={})


main()
