"""What may be started here: the allow-lists of targets and commands, for shared machines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence

import msgspec

from ._problems import Problem


class Policy(msgspec.Struct, frozen=True):
    """What ``--allow-target`` and ``--allow-command`` say; without any, everything is allowed.

    In a pattern ``*`` stands for any characters, and nothing else has a meaning.

    Attributes:
        targets: Patterns of targets. ``*`` matches no ``?``, behind which a target's options
            stand: a pattern that allows options has a ``?`` of its own.
        commands: Patterns of commands, each as one line as a shell would quote it.
    """

    targets: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    def allows(self, target: str, command: Sequence[str], env: Collection[str]) -> bool:
        """Whether this may be started."""
        try:
            self.check(target, command, env)
        except Problem:
            return False
        return True

    def check(self, target: str, command: Sequence[str], env: Collection[str]) -> None:
        """Refuse what may not be started.

        Raises:
            Problem: 403.
        """
        if self.targets and not any(_match(each, target, "[^?]*") for each in self.targets):
            raise Problem(
                403,
                f"the target {target!r} is not allowed here",
                f"allowed are: {', '.join(self.targets)} (holdfast serve --allow-target)",
            )
        if not self.commands:
            return
        line = shlex.join(command)
        if not any(_match(each, line, ".*") for each in self.commands):
            raise Problem(
                403,
                f"the command {line!r} is not allowed here",
                f"allowed are: {', '.join(self.commands)} (holdfast serve --allow-command)",
            )
        if env:
            # PATH, LD_PRELOAD, BASH_ENV and their kind make another command of an allowed one.
            raise Problem(
                403,
                "where commands are restricted, a session sets no environment variables",
                "set them in the environment of holdfast serve, which local workers inherit",
            )


def _match(pattern: str, text: str, anything: str) -> bool:
    expression = anything.join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, text, re.DOTALL) is not None
