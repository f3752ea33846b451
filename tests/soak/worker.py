"""A worker that does what it is told, and keeps its own account of what it read and wrote.

``python -I -S worker.py FOLDER`` writes the account into a new file of that folder, in the form
that ``tests.faults.history.read_account`` reads: each line that was read, and each line before it
is written and once it was. It begins by telling the file's name.
"""

import json
import os
import signal
import sys
import time

NAME = f"{os.getpid()}-{time.monotonic_ns()}"
ACCOUNT = os.open(os.path.join(sys.argv[1], NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
held = []
buffer = bytearray()


def write(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def note(letter, data=b""):
    write(ACCOUNT, b"%b%d\n%b" % (letter, len(data), data))


def put(line):
    note(b"w", line)
    try:
        write(1, line + b"\n")
    except OSError:  # nobody reads it any more
        os._exit(9)
    note(b"d")


def say(message):
    put(json.dumps(message, separators=(",", ":")).encode())


def answer(id, result):
    say({"jsonrpc": "2.0", "id": id, "result": result})


def read_line():
    while (end := buffer.find(b"\n")) < 0:
        data = os.read(0, 65536)
        if not data:
            return None
        buffer.extend(data)
    line = bytes(buffer[: end + 1])
    del buffer[: end + 1]
    return line


def do(name, params, id):
    size = params.get("size", 0)
    if name == "hold":
        held.append(id)
        return
    if name == "release":
        while held:
            answer(held.pop(0), "released")
    elif name == "fail":
        say({"jsonrpc": "2.0", "id": id, "error": {"code": 7, "message": "as asked"}})
        return
    elif name == "slow":
        time.sleep(params["seconds"])
    elif name == "chatter":
        for number in range(params["count"]):
            say({"jsonrpc": "2.0", "method": "tick", "params": {"number": number, "pad": "." * 90}})
    elif name == "garbage":
        for line in (
            b"42",
            b"",
            b"null",
            b"\xff\xfe no text \x00",
            b"[1]",
            b"crlf\r",
            b'{"id":[1]}',
        ):
            put(line)
        put(b"%b" % os.urandom(300).translate(None, b"\n<@"))
    elif name == "huge":
        put(b'{"method":"huge","params":"%b"}' % (b"x" * size))
    elif name == "long_answer":
        answer(id, "x" * size)
        return
    elif name == "flood":
        for _ in range(size // 65536):
            write(2, b"stderr " * 9362 + b"\n\n")
    elif name == "half":  # a line cut by its writer's end
        note(b"w", b'{"half":')
        write(1, b'{"half":')
        os._exit(params["code"])
    elif name == "exit":
        note(b"x")
        os._exit(params["code"])
    elif name == "grandchild":  # it holds our pipes when we are gone
        os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
        note(b"x")
        os._exit(params["code"])
    elif name == "close_stdin":
        note(b"x")
        os.close(0)
        while True:
            signal.pause()
    elif name == "close_stdout":
        note(b"x")
        os.close(1)
        while os.read(0, 65536):
            pass
        os._exit(0)
    if id is not None:
        answer(id, params.get("echo"))


def main():
    note(b"h", b"%d" % os.getpid())
    say({"method": "hello", "params": {"log": NAME}})
    while (line := read_line()) is not None:
        note(b"r", line)
        message = json.loads(line)
        params = message.get("params") or {}
        if "method" in message:
            do(params.get("do", message["method"]), params, message.get("id"))
    note(b"t", bytes(buffer))
    note(b"e")


main()
