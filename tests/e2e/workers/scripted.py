"""A worker that does what it is told: a request's method, or ``params.do``, names the action.

It speaks JSON lines, or ``Content-Length`` frames when started with ``--frames``. A line that is
no JSON is reported as the notification ``garbled``; at the end of its stdin it says ``bye``.
Run with ``python -I -S``, it starts within some 15 ms.
"""

import hashlib
import json
import os
import signal
import sys

FRAMES = "--frames" in sys.argv
state = {"ignores_eof": False, "reports": False}
buffer = bytearray()


def write(data, fd=1):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def say(message):
    data = json.dumps({"jsonrpc": "2.0", **message}).encode()
    write(b"Content-Length: %d\r\n\r\n%b" % (len(data), data) if FRAMES else data + b"\n")


def answer(id, result=None):
    say({"id": id, "result": result})


def notify(method, **params):
    say({"method": method, "params": params})


def more():
    data = os.read(0, 65536)
    buffer.extend(data)
    return bool(data)


def read_line():
    while (end := buffer.find(b"\n")) < 0:
        if not more():
            rest = bytes(buffer)
            buffer.clear()
            return rest or None
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


def read_frame():
    length = 0
    while header := read_line():
        if header == b"\r":
            break
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if not header:
        return None
    while len(buffer) < length:
        more()
    body = bytes(buffer[:length])
    del buffer[:length]
    return body


def wait_for_ever():
    while True:
        signal.pause()


def act(id, name, params):
    if name == "hold":
        return
    if name == "ping":
        answer(id, {"pid": os.getpid(), "ppid": os.getppid()})
    elif name == "release":
        for each in params["ids"]:
            answer(each, "released")
        answer(id)
    elif name == "fail":
        say({"id": id, "error": {"code": 7, "message": "as asked", "data": params}})
    elif name == "print":
        write(params["text"].encode("latin-1"))
        answer(id)
    elif name == "print_last":
        write(params["text"].encode("latin-1"))
        os._exit(params.get("code", 0))
    elif name == "count":
        for number in range(params["to"]):
            notify("number", number=number)
        answer(id)
    elif name == "line":
        write(b'{"method":"long","params":"%b"}\n' % (b"x" * (params["size"] - 29)))
        answer(id)
    elif name == "long_answer":
        say({"id": id, "result": "x" * params["size"]})
    elif name == "noise":
        for number in range(params["rounds"]):
            write(b"e" * params["size"], 2)
            notify("round", number=number)
        answer(id)
    elif name == "stderr":
        write(params["text"].encode(), 2)
        answer(id)
    elif name == "exit":
        write(params.get("say", "").encode(), 2)
        if params.get("answers", False):
            answer(id)
        os._exit(params.get("code", 0))
    elif name == "killed":
        if params.get("answers", False):
            answer(id)
        os.kill(os.getpid(), getattr(signal, params.get("signal", "SIGKILL")))
    elif name == "close_stdin":
        os.close(0)
        answer(id, {"pid": os.getpid()})
        wait_for_ever()
    elif name == "close_stdout":
        answer(id, {"pid": os.getpid()})
        os.close(1)
        wait_for_ever()
    elif name == "pause":  # take no input until somebody opens the fifo
        answer(id, {"pid": os.getpid()})
        with open(params["fifo"], "rb"):
            pass
    elif name == "grandchild":
        command = params.get("command", ["sleep", "1000"])
        # CPython's posix_spawn takes setsid where the libc has it, as glibc does.
        pid = os.posix_spawnp(command[0], command, os.environ, setsid=params.get("escapes", False))
        answer(id, {"pid": pid})
        if params.get("exits", False):
            os._exit(params.get("code", 0))
    elif name == "ignore":
        for each in params.get("signals", ()):
            signal.signal(getattr(signal, each), signal.SIG_IGN)
        state["ignores_eof"] = params.get("eof", False)
        answer(id)
    elif name == "last_words":
        signal.signal(signal.SIGTERM, lambda *_: (notify("terminated"), os._exit(3)))
        state["ignores_eof"] = True
        answer(id)
    elif name == "report":
        state["reports"] = True
        answer(id)
    elif name == "surroundings":
        fds = sorted(int(each) for each in os.listdir("/proc/self/fd"))
        answer(id, {"cwd": os.getcwd(), "env": dict(os.environ), "fds": fds[:-1]})
    else:
        answer(id, params)


def main():
    while (line := read_frame() if FRAMES else read_line()) is not None:
        if state["reports"]:
            notify("got", size=len(line), sha=hashlib.sha256(line).hexdigest())
        try:
            message = json.loads(line)
            params = message.get("params") or {}
            name = params.get("do", message["method"])
        except (ValueError, KeyError, AttributeError):
            notify("garbled", size=len(line), head=line[:40].decode("latin-1"))
            continue
        if "id" in message:
            act(message["id"], name, params)
        else:
            notify("noticed", method=name)
    notify("bye")
    if state["ignores_eof"]:
        wait_for_ever()


main()
