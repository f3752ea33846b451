"""``python -m holdfast`` is the ``holdfast`` command."""

from ._cli import main

main()
