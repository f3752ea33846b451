"""Which transports and dialects there are: the built-in ones and every plugin's, all alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from . import _hookspecs
from ._dialect import BUILT_IN, Dialect
from ._discovery import Found, find, find_all, from_entry_points
from ._errors import (
    DuplicateTransport,
    HoldfastError,
    InvalidTarget,
    PluginError,
    PluginLoadError,
    UnknownTransport,
)
from ._target import Target
from ._transport import Capability, Transport

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ._session import Session
    from ._status import Status

_log = logging.getLogger("holdfast")


class TransportSpec(msgspec.Struct, frozen=True):
    """A transport as its plugin offers it.

    Attributes:
        scheme: The target URI's scheme.
        factory: Makes the transport for a target; it does no I/O.
        summary: One line for a person.
        example: A target that works.
        options: The options that a target may carry behind ``?``, each with its type and meaning,
            such as ``{"connect_timeout": "seconds (float), default 10"}``.
        capabilities: What its transports can do, as far as that is the same for all of them.
    """

    scheme: str
    factory: Callable[[Target], Transport]
    summary: str
    example: str
    options: Mapping[str, str] = {}
    capabilities: Capability | None = None


class Provided(msgspec.Struct, frozen=True):
    """A transport and who brings it."""

    spec: TransportSpec
    plugin: str
    distribution: str


class Registry:
    """The plugins of one program.

    A plugin is imported when its scheme is asked for, and not before. To have all of them, with
    their dialects and observers, call :meth:`load_all`.

    Args:
        entry_points: Where plugins are found; default: those of the installed distributions.
    """

    def __init__(self, *, entry_points: Iterable[EntryPoint] | None = None) -> None:
        self._plugins = pluggy.PluginManager(_hookspecs.PROJECT)
        self._plugins.add_hookspecs(_hookspecs)
        self._found: list[Found] | None = None
        if entry_points is not None:
            self._found = from_entry_points(entry_points)
        self._transports: dict[str, Provided] = {}
        self._dialects: dict[str, Dialect] = dict(BUILT_IN)
        self._loaded: dict[str, PluginError | None] = {}
        self._observers: list[Callable[[Session, Status], object]] = []

    # -- plugins -----------------------------------------------------------------------------

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin that is at hand: a module, or an object with hook implementations.

        Raises:
            PluginLoadError: Its hooks are not what holdfast's specifications say.
            DuplicateTransport: It brings a scheme that another one brings.
        """
        own_name = str(getattr(plugin, "__name__", type(plugin).__name__))
        self._add(plugin, name or own_name, "this program")

    def load_all(self) -> list[PluginError]:
        """Import every plugin there is, and give what went wrong, one error for each broken one."""
        for name in dict.fromkeys(found.name for found in self._all_found()):
            self._load(name)
        return [error for error in self._loaded.values() if error is not None]

    @property
    def schemes(self) -> list[str]:
        """The schemes that are known without importing anything, sorted.

        A plugin that brings no transport is among them until it is loaded.
        """
        idle = {found.name for found in self._all_found()} - self._loaded.keys()
        return sorted(idle | self._transports.keys())

    @property
    def transports(self) -> list[Provided]:
        """The transports of all plugins that are loaded, by scheme."""
        return [self._transports[scheme] for scheme in sorted(self._transports)]

    @property
    def dialects(self) -> Mapping[str, Dialect]:
        """The dialects that are loaded, by name."""
        return self._dialects

    def _all_found(self) -> list[Found]:
        if self._found is None:
            self._found = find_all()
        return self._found

    def _find(self, name: str) -> list[Found]:
        if self._found is None:
            return find(name)
        return [found for found in self._found if found.name == name]

    def _load(self, name: str) -> PluginError | None:
        """Import the plugin of one name; it breaks nothing but itself."""
        if name in self._loaded:
            return self._loaded[name]
        candidates = self._find(name)
        if not candidates:
            return None
        distributions = sorted({each.distribution for each in candidates})
        failure: PluginError | None = None
        if len(distributions) > 1:
            failure = DuplicateTransport(
                f"plugin {name!r} is brought by {' and by '.join(distributions)}: uninstall one"
            )
        else:
            try:
                plugin = candidates[0].load()
                if not self._plugins.is_registered(plugin):  # it has a name for each of its schemes
                    self._add(plugin, name, distributions[0])
            except PluginError as error:
                failure = error
            except (Exception, SystemExit) as error:  # noqa: BLE001 - it breaks only itself
                failure = PluginLoadError(name, distributions[0], error)
                failure.__cause__ = error
        self._loaded[name] = failure
        return failure

    def _add(self, plugin: object, name: str, distribution: str) -> None:
        is_new = not self._plugins.has_plugin(name)
        try:
            self._plugins.register(plugin, name)
            self._plugins.check_pending()
            specs = self._ask(plugin, "holdfast_transports")
            dialects = self._ask(plugin, "holdfast_dialects")
            self._check(specs, dialects, distribution)
        except (Exception, SystemExit) as error:
            if is_new and self._plugins.has_plugin(name):
                self._plugins.unregister(name=name)
            if isinstance(error, PluginError):
                raise
            raise PluginLoadError(name, distribution, error) from error
        for spec in specs:
            self._transports[spec.scheme] = Provided(spec, name, distribution)
        self._dialects.update((dialect.name, dialect) for dialect in dialects)
        self._observers = [
            _observer(each.function, each.argnames)
            for each in self._plugins.hook.holdfast_status_changed.get_hookimpls()
        ]

    def _ask(self, plugin: object, hook: str) -> Sequence[Any]:
        """What one plugin's hook gives, and no other plugin's."""
        for each in getattr(self._plugins.hook, hook).get_hookimpls():
            if each.plugin is plugin:
                return list(each.function())
        return []

    def _check(
        self, specs: Sequence[object], dialects: Sequence[object], distribution: str
    ) -> None:
        for spec in specs:
            if not isinstance(spec, TransportSpec):
                raise TypeError(f"holdfast_transports gives TransportSpec objects, not {spec!r}")
            other = self._transports.get(spec.scheme)
            if other is not None:
                raise DuplicateTransport(
                    f"scheme {spec.scheme!r} is brought by {other.distribution} and by "
                    f"{distribution}: uninstall one"
                )
        for dialect in dialects:
            if not isinstance(dialect, Dialect):
                raise TypeError(f"holdfast_dialects gives Dialect objects, not {dialect!r}")
            if dialect.name in self._dialects:
                raise ValueError(f"there is a dialect {dialect.name!r} already")

    # -- what a program asks for -------------------------------------------------------------

    def transport(self, target: str) -> Transport:
        """The transport for a target URI.

        Raises:
            InvalidTarget: The target cannot be read, or has an option that its transport lacks.
            UnknownTransport: Nobody provides its scheme.
            PluginLoadError: Its plugin is broken.
        """
        parsed = Target.parse(target)
        spec = self.spec(parsed.scheme)
        for option in parsed.options:
            if option not in spec.options:
                known = ", ".join(spec.options) or "none"
                raise InvalidTarget(
                    f"{parsed.scheme}: has no option {option!r}"
                    f"{nearest(option, spec.options)}; it has: {known}"
                )
        try:
            return spec.factory(parsed)
        except HoldfastError:
            raise
        except ValueError as error:
            raise InvalidTarget(f"{target!r}: {error}") from error

    def spec(self, scheme: str) -> TransportSpec:
        """The transport of a scheme, its plugin imported.

        Raises:
            UnknownTransport: Nobody provides it.
            PluginLoadError: Its plugin is broken.
        """
        if scheme not in self._transports:
            failure = self._load(scheme)
            if failure is not None:
                raise failure
        if scheme not in self._transports:
            raise UnknownTransport(scheme, self.schemes, nearest(scheme, self.schemes))
        return self._transports[scheme].spec

    def dialect(self, name: str) -> Dialect:
        """The dialect of a name; plugins are imported only if it is no built-in one.

        Raises:
            ValueError: There is none of this name.
        """
        if name not in self._dialects:
            self.load_all()
        if name not in self._dialects:
            known = ", ".join(sorted(self._dialects))
            raise ValueError(
                f"no dialect named {name!r}{nearest(name, self._dialects)}; known: {known}"
            )
        return self._dialects[name]

    def add_commands(self, cli: object) -> None:
        """Let every plugin that is loaded add its sub-commands; one that fails is logged."""
        for each in self._plugins.hook.holdfast_commands.get_hookimpls():
            try:
                each.function(cli)
            except Exception:  # noqa: BLE001 - a broken plugin breaks only itself
                _log.exception("plugin %s could not add its commands", each.plugin_name)

    def reap(self) -> list[tuple[str, Sequence[str] | Exception]]:
        """Let every plugin remove what killed programs left: what each removed, or what failed."""
        results: list[tuple[str, Sequence[str] | Exception]] = []
        for each in self._plugins.hook.holdfast_reap.get_hookimpls():
            reap: Callable[[], Any] = each.function
            try:
                results.append((each.plugin_name, list(reap())))
            except Exception as error:  # noqa: BLE001 - a plugin breaks only itself
                results.append((each.plugin_name, error))
        return results

    def observe(self, session: Session, status: Status) -> None:
        """Tell every observer of a changed status; one that fails is logged."""
        for observer in self._observers:
            try:
                observer(session, status)
            except Exception:  # noqa: BLE001 - an observer changes nothing
                _log.exception("an observer of session %s failed; the session goes on", session.id)


def _observer(
    function: Callable[..., object], names: Sequence[str]
) -> Callable[[Session, Status], object]:
    """Pluggy lets an implementation take fewer arguments than its specification has."""

    def call(session: Session, status: Status) -> object:
        arguments = {"session": session, "status": status}
        return function(*(arguments[name] for name in names))

    return call


def nearest(word: str, known: Iterable[str]) -> str:
    """A question that names the most similar known word, or nothing."""
    import difflib

    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
