"""Clauses on how a worker starts: the command it is given, and what is said when it cannot."""

from __future__ import annotations

import shlex

import pytest

from holdfast import Capability, Command, TransportUnavailable, WorkerNotStarted

from ._clause import clause
from ._kit import PROMPT, Kit, raises

ANY_COMMAND = Capability.ANY_COMMAND

_PRINT_ARGS = 'printf "%s\\0" "$@"'


async def _arguments(kit: Kit, *args: str) -> None:
    """Start a worker with these arguments and see that it got just them."""
    printed = await kit.probe(_PRINT_ARGS, *args)
    assert printed.split(b"\0")[:-1] == [each.encode() for each in args]


async def _variable(kit: Kit, value: str) -> None:
    """Start a worker with this variable and see that it got it."""
    async with kit.open('printf "%s" "$HF_VALUE"', env={"HF_VALUE": value}) as peer:
        assert await peer.to_end() == value.encode()


class StartClauses:
    """How a worker starts."""

    @clause("HF-START-1", ANY_COMMAND, see="Transport.open")
    async def test_no_such_command(self, kit: Kit) -> None:
        """A command that is not there is WorkerNotStarted, raised by open, and names it."""
        with raises(WorkerNotStarted, "open", naming="no-such-command-of-holdfast"):
            async with kit.start(Command(("no-such-command-of-holdfast",))):
                pass

    @clause("HF-START-2", ANY_COMMAND, see="Transport.open")
    async def test_no_such_directory(self, kit: Kit) -> None:
        """A working directory that is not there is WorkerNotStarted, and names it."""
        with raises(WorkerNotStarted, "open", naming="no-such-directory-of-holdfast"):
            async with kit.open("exit 0", cwd="/no-such-directory-of-holdfast"):
                pass

    @clause("HF-START-3", ANY_COMMAND, see="Transport.open")
    async def test_no_program(self, kit: Kit) -> None:
        """A file that cannot be executed is WorkerNotStarted, and names it."""
        with raises(WorkerNotStarted, "open", naming="/dev/null"):
            async with kit.start(Command(("/dev/null",))):
                pass

    @clause("HF-START-4", ANY_COMMAND, see="Transport.open")
    async def test_works_on_after_a_failed_start(self, kit: Kit) -> None:
        """A start that failed does not spoil the transport for the next."""
        with raises(WorkerNotStarted, "open"):
            async with kit.start(Command(("no-such-command-of-holdfast",))):
                pass
        assert await kit.probe("echo fine") == b"fine\n"

    @clause("HF-START-5", see="Transport.open", fixture="unreachable")
    async def test_unreachable(self, kit: Kit) -> None:
        """A place that cannot be reached is TransportUnavailable, within a bounded time."""
        with kit.within("open", 3 * PROMPT), raises(TransportUnavailable, "open"):
            async with kit.unreachable.open(Command(("true",))):
                pass

    @clause("HF-START-6", see="Transport.open")
    async def test_a_worker_for_each_channel(self, kit: Kit) -> None:
        """Each open starts a worker of its own."""
        who = "echo $$ $(uname -n); cat"  # by number, or each on a machine of its own
        async with kit.open(who) as one, kit.open(who) as other:
            assert await one.line() != await other.line()

    @clause("HF-ARGV-1", ANY_COMMAND, see="Command")
    async def test_arguments_with_spaces_and_quotes(self, kit: Kit) -> None:
        """Arguments arrive with their spaces, tabs and quotes."""
        await _arguments(kit, "two words", " edge ", "a\tb", "it's", 'say "hi"', "'\"'", "`")

    @clause("HF-ARGV-2", ANY_COMMAND, see="Command")
    async def test_arguments_with_newlines(self, kit: Kit) -> None:
        """Arguments arrive with their newlines and carriage returns, also at the end."""
        await _arguments(kit, "two\nlines", "end\n", "\n", "crlf\r\n", "\x1b[0m\x7f\x01")

    @clause("HF-ARGV-3", ANY_COMMAND, see="Command")
    async def test_arguments_in_unicode(self, kit: Kit) -> None:
        """Arguments arrive in UTF-8, whatever the script."""
        await _arguments(kit, "grüße", "日本語", "🛰️", "e\u0301", "\u202etfel")

    @clause("HF-ARGV-4", ANY_COMMAND, see="Command")
    async def test_empty_arguments(self, kit: Kit) -> None:
        """Empty arguments arrive, each in its place."""
        await _arguments(kit, "", "a", "", "", "b", "")

    @clause("HF-ARGV-5", ANY_COMMAND, see="Command")
    async def test_no_shell_reads_the_arguments(self, kit: Kit) -> None:
        """No shell on the way reads the arguments: nothing is expanded, run or taken away."""
        await _arguments(
            kit, "$HOME", "$(echo no)", "`echo no`", "*", "~", "a;b", "a|b", "a&", ">no", "#",
            "\\", "\\n", "a\\ b", "!x", "{a,b}", "%s", "--", "-n", "$$",
        )  # fmt: skip

    @clause("HF-ARGV-6", ANY_COMMAND, see="Command")
    async def test_a_long_argument(self, kit: Kit) -> None:
        """An argument of 64 KiB arrives whole."""
        await _arguments(kit, "0123456789abcdef" * 4096)

    @clause("HF-ENV-1", ANY_COMMAND, see="Command")
    async def test_environment_is_added(self, kit: Kit) -> None:
        """With inherit_env the variables are added to those that are there anyway."""
        script = 'echo "${PATH:+path}" "$HF_ONE" "$HF_TWO"'
        async with kit.open(script, env={"HF_ONE": "1", "HF_TWO": "2"}) as peer:
            assert await peer.to_end() == b"path 1 2\n"

    @clause("HF-ENV-2", ANY_COMMAND, see="Command")
    async def test_environment_is_replaced(self, kit: Kit) -> None:
        """Without inherit_env the worker has the given variables and no others."""
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HF_ONLY": "1"}
        async with kit.open("env", env=env, inherit_env=False) as peer:
            lines = (await peer.to_end()).splitlines()
        names = {line.partition(b"=")[0] for line in lines}
        own = {b"PWD", b"OLDPWD", b"SHLVL", b"_"}  # what a shell sets by itself
        assert names - own == {b"PATH", b"HF_ONLY"}

    @clause("HF-ENV-3", ANY_COMMAND, see="Command")
    async def test_values_are_exact(self, kit: Kit) -> None:
        """A variable's value arrives as it is: quotes, newlines, unicode, equals signs."""
        await _variable(kit, 'it\'s "$HOME" = `x`\n\tgrüße\\ 日本 *;#\n')

    @clause("HF-ENV-4", ANY_COMMAND, see="Command")
    async def test_an_empty_value(self, kit: Kit) -> None:
        """A variable whose value is empty is set, not missing."""
        async with kit.open("echo ${HF_EMPTY-unset}:", env={"HF_EMPTY": ""}) as peer:
            assert await peer.to_end() == b":\n"

    @clause("HF-ENV-5", ANY_COMMAND, see="Command")
    async def test_environment_overrides(self, kit: Kit) -> None:
        """A variable that is there anyway gets the given value."""
        async with kit.open('echo "$HOME"', env={"HOME": "/of holdfast"}) as peer:
            assert await peer.to_end() == b"/of holdfast\n"

    @clause("HF-CWD-1", ANY_COMMAND, see="Command")
    async def test_working_directory(self, kit: Kit) -> None:
        """The worker runs in the directory it is given."""
        async with kit.open("pwd -P", cwd="/") as peer:
            assert await peer.to_end() == b"/\n"

    @clause("HF-CWD-2", ANY_COMMAND, see="Command")
    async def test_working_directory_with_a_difficult_name(self, kit: Kit) -> None:
        """A directory's name may hold spaces, quotes and dollar signs."""
        name = 'it\'s a "dir" $HOME *'
        make = 'd=$(mktemp -d) && d=$(cd "$d" && pwd -P) && mkdir "$d/$1" && printf %s "$d"'
        base = (await kit.probe(make, name)).decode()
        if await kit.probe('test -d "$1" && echo there', base) != b"there\n":
            pytest.skip("capability: files that outlive the worker which made them")
        try:
            async with kit.open("pwd -P", cwd=f"{base}/{name}") as peer:
                assert await peer.to_end() == f"{base}/{name}\n".encode()
        finally:
            await kit.probe(f"rm -r {shlex.quote(base)}")
