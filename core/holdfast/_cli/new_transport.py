"""``holdfast new-transport NAME``: a plugin whose transport works, to be changed from there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from string import Template
from typing import Final

import click

from holdfast._registry import Registry

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:[+.-][a-z0-9]+)*")
"""A URI scheme (RFC 3986, section 3.1) that can be part of a package's name, too."""

_LONGEST: Final = 40
"""Characters of a name: far more than anybody types, far less than a file system takes."""

_SUFFIX: Final = ".tmpl"


class CannotWrite(click.ClickException):
    """The files cannot be written where they should be."""

    exit_code = 73  # EX_CANTCREAT of sysexits.h

    def show(self, file: object = None) -> None:
        """One line, as every error of ours."""
        click.echo(f"holdfast: {self.message}", err=True)


@click.command()
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to make and to write to.  [default: holdfast-NAME]",
)
@click.argument("name")
def command(name: str, directory: Path | None) -> int:
    """Write a new transport: a plugin that passes its tests.

    NAME is the scheme of its targets, such as box for box://somewhere. What is written is a whole
    distribution with a transport that works, over a Unix socket: change it to what you need, and
    let its tests tell when you broke the contract.

    The exit code is 0; 64 if NAME cannot be taken; 73 if DIR is there already or cannot be made.
    """
    words = _words(name)
    folder = directory or Path(words["distribution"])
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise CannotWrite(f"{folder} is there already; give another --directory") from error
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be made: {error.strerror}") from error
    try:
        written = [_write(folder, path, template, words) for path, template in _templates(words)]
    except OSError as error:
        raise CannotWrite(f"{error.filename} cannot be written: {error.strerror}") from error
    for path in written:
        click.echo(path)
    click.echo(
        f"\nNext: cd {shlex.quote(str(folder))} && pip install -e '.[test]' && pytest\n"
        f"Then make {words['Name']}Transport.open connect to what you have."
    )
    return 0


def _words(name: str) -> dict[str, str]:
    """What stands in the templates for a name."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise click.UsageError(
            f"not the name of a transport: {name!r}; write a scheme in lower case, such as box or "
            f"box+exec: letters, digits and single + . - between them, {_LONGEST} at most"
        )
    registry = Registry()
    registry.load_all()
    if name in registry.schemes:
        raise click.UsageError(
            f"{name!r} is taken; installed are: {', '.join(registry.schemes)} "
            f"(see: holdfast transports)"
        )
    parts = re.split(r"[+.-]", name)
    package = "_".join(["holdfast", *parts])
    if find_spec(package) is not None:
        raise click.UsageError(f"{name!r} is taken: there is a package {package} already")
    return {
        "scheme": name,
        "distribution": "-".join(["holdfast", *parts]),
        "package": package,
        "Name": "".join(part.capitalize() for part in parts),
        "holdfast": metadata.version("holdfast"),
    }


def _templates(words: Mapping[str, str]) -> Iterator[tuple[PurePosixPath, str]]:
    """Each file's path in the new folder, and its text."""
    yield from _below(files("holdfast._cli") / "_templates" / "transport", PurePosixPath(), words)


def _below(
    folder: Traversable, path: PurePosixPath, words: Mapping[str, str]
) -> Iterator[tuple[PurePosixPath, str]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            name = words["package"] if each.name == "package" else each.name
            yield from _below(each, path / name, words)
        elif each.name.endswith(_SUFFIX):
            yield path / each.name.removesuffix(_SUFFIX), each.read_text(encoding="utf-8")


def _write(folder: Path, path: PurePosixPath, template: str, words: Mapping[str, str]) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Template(template).substitute(words), encoding="utf-8")
    return target
