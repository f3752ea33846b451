"""Text that others wrote, for a terminal that must not obey it."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with what is not plainly visible written out, such as an escape character."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )
