"""What runs beside workers elsewhere: small POSIX shell scripts, and how they are fed.

A command line can be seen by everybody who can list processes, and so can a container's
environment by all who may inspect it; sshd drops most environment variables without a word. So the
command is the same short text each time, :data:`BOOTSTRAP`. It says where it runs, and then
evaluates one line of its stdin: what to run, in which directory, with which variables. ``read``
takes no byte beyond that line, so that all that follows is the worker's.

The worker takes the shell's place. sshd and container engines start each command as the leader of a
session of its own, so that its process id names its process group, too.
"""

from __future__ import annotations

import os
import re
from typing import Final

from holdfast import Command, WorkerNotStarted

BOOTSTRAP: Final = (
    "exec 3>&2 2>/dev/null; "
    "read -r hf_a hf_b hf_c hf_d hf_g hf_e </proc/$$/stat || hf_g=$(ps -o pgid= -p $$); "
    'echo "holdfast-ready" $$ $hf_g; IFS= read -r hf_l && eval "$hf_l"'
)
"""The script of ``sh -c``. The worker's stderr waits at descriptor 3."""

FOR_ANY_SHELL: Final = f"exec sh -c '{BOOTSTRAP}' holdfast"
"""The same for a login shell, whichever that is: sh, bash, zsh, busybox, fish and csh all read it
alike (one line; no quotes, history or redirections but within the script)."""

READY: Final = re.compile(rb"holdfast-ready (\d+) (\d+)\n")
"""What the bootstrap prints: its process id and its process group."""

STARTED: Final = b"holdfast-started\n"
"""What is printed right before the worker takes the shell's place."""

FAILED: Final = re.compile(rb"holdfast-failed ([a-z]+)\n")
"""What is printed if there will be no worker, and why."""

_WHY: Final = {
    b"cwd": "no such directory: {cwd!r}; create it there, or correct cwd",
    b"missing": "no such command: {program!r}; install it there, or give its path or a longer PATH",
    b"file": "{program!r} is no file that can be run; give the path of a program",
    b"mode": "{program!r} may not be run; check its mode (chmod +x)",
    b"interpreter": "{program!r} names an interpreter that is not there; look at its first line",
}

# Looks for the program as `exec` will, before the worker is said to run. A shell says "not found"
# of a script whose interpreter is missing, too. It runs in a subshell: IFS and the rest stay.
_FIND: Final = (
    "hf_find() { case $1 in "
    '*/*) hf_f=$1; [ -e "$hf_f" ] || { echo missing; return; };; '
    "*) hf_f=; IFS=:; set -f; for hf_d in $PATH; do hf_d=${hf_d:-.}/$1; "
    '[ -f "$hf_d" ] && [ -x "$hf_d" ] && { hf_f=$hf_d; break; }; done; unset IFS; '
    '[ "$hf_f" ] || { echo missing; return; };; esac; '
    '[ -f "$hf_f" ] || { echo file; return; }; [ -x "$hf_f" ] || { echo mode; return; }; '
    'if [ "$(head -c 2 "$hf_f" | tr -d "\\0")" = "#!" ]; then '
    'IFS= read -r hf_s <"$hf_f"; set -f; set -- ${hf_s#"#!"}; '
    '[ -f "$1" ] || { echo interpreter; return; }; fi; echo "=$hf_f"; }; '
)

_NEWLINE: Final = 'hf_n=$(printf "\\nx"); hf_n=${hf_n%x}; '

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_FOR_A_SHELL: Final = frozenset(
    {"_", "BASHOPTS", "BASHPID", "BASH_VERSINFO", "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "GID"}
    | {"IFS", "LINENO", "OPTIND", "PPID", "RANDOM", "SECONDS", "SHELLOPTS", "SRANDOM", "UID"}
)
"""Variables that are read-only in some shell, or change by themselves, or change the shell."""


def _quoted(text: str) -> str:
    """One word for a POSIX shell, on one line: ``$hf_n`` holds a newline there."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "'\"'\"'").replace("\n", "'\"$hf_n\"'") + "'"


def start_line(command: Command, *, keep_shell: bool = False) -> bytes:
    """The lines that turn the bootstrap into the worker.

    Args:
        command: What to run.
        keep_shell: The shell stays, and ends with the worker's exit code, or 128 and the number of
            its signal: for a client that is told no signals.
    """
    program = command.argv[0]
    plain, odd = [], []
    for name, value in command.env.items():
        if _NAME.fullmatch(name) and name not in _NOT_FOR_A_SHELL:
            plain.append(f"export {name}={_quoted(value)}; ")
        else:  # by env(1), in whose arguments it can be seen for a moment
            odd.append(_quoted(f"{name}={value}"))
    argv = [_quoted(each) for each in command.argv]
    words = [*argv]
    if program.startswith("-") or not (command.inherit_env or "PATH" in command.env):
        words[0] = '"${hf_r#=}"'  # no option of `exec`; and without PATH it finds nothing
    if odd:
        words = ["env", *odd, *words]
    run = "exec " + " ".join(words) + " 2>&3 3>&-"
    if keep_shell:
        run = _kept(run)
    line = _NEWLINE
    if command.cwd is not None:
        cwd = command.cwd if command.cwd.startswith("/") else f"./{command.cwd}"
        line += f"cd {_quoted(cwd)} || {{ echo holdfast-failed cwd; exit 126; }}; "
    line += (
        "".join(plain)
        + _FIND
        + f"hf_r=$(hf_find {argv[0] if program else chr(39) * 2}); "
        + 'case $hf_r in =*) ;; *) echo "holdfast-failed $hf_r"; exit 126;; esac; '
    )
    if not command.inherit_env and "PATH" not in command.env:
        line += "unset PATH; "
    line += f"echo {STARTED.decode().strip()}; {run}\n"
    if not command.inherit_env:
        line = 'exec env -i PATH="$PATH" sh -c \'IFS= read -r hf_l && eval "$hf_l"\'\n' + line
    return os.fsencode(line)


def not_started(command: Command, why: bytes) -> WorkerNotStarted:
    """What the far side said, in words."""
    text = _WHY.get(why, "{program!r} could not be started there ({why})")
    return WorkerNotStarted(
        text.format(program=command.argv[0], cwd=command.cwd, why=why.decode("ascii", "replace"))
    )


# The worker is a child in the foreground: one in the background could never be interrupted, since
# POSIX has its SIGINT ignored for good. Its shell lives on through the polite signals that go to
# the whole group. It must not hold the worker's pipes, or nobody would see them closed; but it
# waits from the moment in which the worker exists. So a sleeper holds them in between, and the
# worker takes them out of its hands. Where /proc does not let it, the shell keeps them. (The
# sleeper may still be a shell that has traps: it would survive a TERM.)
def _kept(run: str) -> str:
    streams = "<$hf_p/4 >$hf_p/1 3>$hf_p/3"
    return (
        "trap : HUP INT QUIT TERM USR1 USR2; exec 4<&0; "
        "(PATH=${PATH+$PATH:}/usr/bin:/bin; exec sleep 60) & hf_h=$!; hf_p=/proc/$hf_h/fd; "
        f"if (: {streams}); then exec </dev/null >/dev/null 3>&- 4<&-; "
        f"(exec {streams}; kill -9 $hf_h; {run}); "
        f"else kill -9 $hf_h; (exec 4<&-; {run}); fi; exit $?"
    )


_SILENT: Final = 60
"""Seconds that the guard bears without a word from us: many times what a slow link may take."""

_GRACES: Final = "1 2 3"
"""A word for each second between its SIGTERM and its SIGKILL."""

GUARD: Final = (
    # Its output may go nowhere once the link is lost, which must not end it.
    'LC_ALL=C; export LC_ALL; trap "" PIPE INT; hf_g=$*; hf_k=; '
    # The whole group, where we lead one: told by number, bash 5.2 left a sleeper behind in 0.6 % of
    # runs with two pings and the end within milliseconds. (Measured; why is not known.)
    'hf_end() { trap "" TERM HUP; kill -TERM -$$ || kill $hf_k; '
    "for hf_p in $hf_g; do kill -TERM -$hf_p; done; "
    f"for hf_i in {_GRACES}; do hf_o=; for hf_p in $hf_g; do kill -0 -$hf_p && hf_o=1; done; "
    '[ "$hf_o" ] || exit 0; sleep 1; done; '
    "for hf_p in $hf_g; do kill -KILL -$hf_p; done; exit 0; }; "
    # The watch: nothing heard for a minute, and it ends us, and we the workers.
    '(trap "kill -9 \\$!; exit 0" TERM; trap "kill -9 \\$!" USR1; while :; do '
    f"sleep {_SILENT} & "
    "if wait $!; then kill -TERM $$; exit; fi; done) <&- >&- 3>&- & hf_k=$!; "
    "trap hf_end TERM HUP; exec 3>&-; echo holdfast-started; "
    "while read -r hf_c hf_p hf_i; do case $hf_c in "
    '+) hf_g="$hf_g $hf_p";; '
    '-) hf_o=$hf_g; hf_g=; for hf_q in $hf_o; do [ $hf_q = $hf_p ] || hf_g="$hf_g $hf_q"; done;; '
    ".) kill -USR1 $hf_k;; "
    '*) hf_o=$(kill -$hf_c -$hf_p 2>&1); echo "holdfast-killed $hf_i $? $hf_o";; '
    "esac; done; hf_end\n"
).encode()
"""The line that turns the bootstrap into the guard of one connection's workers.

It guards the process groups that are its arguments (a bootstrap has none), and those that it is
told of. Line by line it reads ``+ GROUP`` and ``- GROUP`` (guard this process group; no longer),
``.`` (we are there), and ``SIGNAL GROUP NUMBER``, which it answers. At the end of its stdin, which
is that of the connection, or after a minute without a ``.``, it ends them: politely, then not.
"""

PING: Final = b".\n"
"""What the guard is to hear more often than its silence allows."""

PING_EVERY: Final = 15.0
"""Seconds between two of them: a quarter of what the guard bears."""

KILLED: Final = re.compile(rb"holdfast-killed (\d+) (\d+) ?(.*)\n")
"""The guard's answer to a signal: its number, the exit status of ``kill``, and what it said."""
