"""The registry: a plugin is imported when it is asked for, and a broken one breaks only itself."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast
from holdfast import (
    Channel,
    Command,
    Dialect,
    DuplicateTransport,
    InvalidTarget,
    PluginLoadError,
    Registry,
    State,
    Status,
    Target,
    Transport,
    TransportSpec,
    TransportUnavailable,
    UnknownTransport,
)

GOOD = """
    import holdfast

    class Place(holdfast.Transport):
        def __init__(self, target):
            self.target = target
        def open(self, command):
            raise NotImplementedError

    @holdfast.hookimpl
    def holdfast_transports():
        options = {{"timeout": "seconds"}}
        return [holdfast.TransportSpec({scheme!r}, Place, "a place", "{scheme}:", options)]
"""


class Plugins:
    """Distributions with plugins, installed for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entry_points: list[EntryPoint] = []
        self.names: set[str] = set()

    def add(
        self, name: str, source: str | None = GOOD, *, of: str | None = None, module: str = ""
    ) -> None:
        """A distribution brings the entry point ``name`` with this module behind it."""
        module = module or f"hf_test_{name.replace('+', '_')}_{len(self.entry_points)}"
        if source is not None:
            text = dedent(source.format(scheme=name) if source is GOOD else source)
            (self.folder / f"{module}.py").write_text(text, encoding="utf-8")
        self.names.add(module)
        entry_point = EntryPoint(name, module, "holdfast")
        vars(entry_point)["dist"] = SimpleNamespace(name=of or f"holdfast-{name}")
        self.entry_points.append(entry_point)

    @property
    def imported(self) -> set[str]:
        """The entry points whose modules were imported."""
        return {each.name for each in self.entry_points if each.module in sys.modules}

    @property
    def registry(self) -> Registry:
        return Registry(entry_points=self.entry_points)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)
    plugins = Plugins(tmp_path)
    yield plugins
    for name in plugins.names:
        sys.modules.pop(name, None)


class Place(Transport):
    """A transport that only knows its target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def open(self, command: Command) -> Any:
        raise NotImplementedError


def spec(
    scheme: str, factory: Callable[[Target], Transport] = Place, **options: str
) -> TransportSpec:
    return TransportSpec(scheme, factory, "a place", f"{scheme}:", options)


def plugin(
    *specs: object, dialects: object = None, status: object = None, commands: object = None
) -> object:
    """A plugin that is at hand, with these hooks."""
    hooks: dict[str, Any] = {"holdfast_transports": lambda: list(specs)}
    if dialects is not None:
        hooks["holdfast_dialects"] = lambda: dialects
    if status is not None:
        hooks["holdfast_status_changed"] = status
    if commands is not None:
        hooks["holdfast_commands"] = commands
    for hook in hooks.values():
        holdfast.hookimpl(hook)
    return SimpleNamespace(**hooks)


def registry_of(*plugins: object) -> Registry:
    registry = Registry(entry_points=[])
    for n, each in enumerate(plugins):
        registry.register(each, f"plugin-{n}")
    return registry


# -- loading ----------------------------------------------------------------------------------


def test_opening_a_scheme_imports_its_plugin_only(plugins: Plugins) -> None:
    """Asking for ``x:`` imports the entry point ``x``, and no other."""
    for name in ("a", "x", "b"):
        plugins.add(name)
    registry = plugins.registry
    assert registry.schemes == ["a", "b", "x"]
    assert plugins.imported == set()
    transport = registry.transport("x://host?timeout=3")
    assert plugins.imported == {"x"}
    assert transport.target == Target.parse("x://host?timeout=3")  # type: ignore[attr-defined]
    assert [each.spec.scheme for each in registry.transports] == ["x"]


def test_making_a_registry_imports_nothing(plugins: Plugins) -> None:
    """Neither making one, nor its built-in dialects, nor its schemes import a plugin."""
    plugins.add("x")
    registry = plugins.registry
    assert registry.dialect("jsonrpc").name == "jsonrpc"
    assert (registry.schemes, registry.transports) == (["x"], [])
    assert plugins.imported == set()


def test_who_brings_a_transport_is_known(plugins: Plugins) -> None:
    """Each transport names its plugin and its distribution."""
    plugins.add("x", of="holdfast-extras")
    registry = plugins.registry
    registry.load_all()
    (provided,) = registry.transports
    assert (provided.spec.scheme, provided.plugin, provided.distribution) == (
        "x",
        "x",
        "holdfast-extras",
    )


def test_the_installed_plugins_are_found() -> None:
    """Without an argument a registry looks at what is installed."""
    names = {
        each.name
        for dist in Distribution.discover()
        for each in dist.entry_points
        if each.group == "holdfast"
    }
    assert set(Registry().schemes) == names


def test_a_registry_has_its_own_plugins(plugins: Plugins) -> None:
    """What one registry loads or registers, another one does not know."""
    plugins.add("x")
    one, other = plugins.registry, plugins.registry
    one.spec("x")
    one.register(plugin(spec("y")))
    assert other.transports == []
    with pytest.raises(UnknownTransport):
        other.spec("y")


BROKEN = {
    "import error": "import no_such_module_at_all",
    "syntax error": "def",
    "raises": "raise RuntimeError('oops')",
    "exits": "import sys; sys.exit('needs a newer Python')",
    "hook raises": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports():
            raise RuntimeError("oops")
    """,
    "hook exits": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports():
            raise SystemExit(3)
    """,
    "wrong type": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports():
            return ["x"]
    """,
    "no list": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports():
            return None
    """,
    "wrong dialect": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_dialects():
            return ["mcp"]
    """,
    "unknown hook": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transport():
            return []
    """,
    "wrong arguments": """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports(colour):
            return []
    """,
    "no module": None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_breaks_only_itself(plugins: Plugins, kind: str) -> None:
    """It is named with its distribution, each time it is asked for, and the others work."""
    plugins.add("a")
    plugins.add("bad", BROKEN[kind], of="holdfast-bad")
    plugins.add("z")
    registry = plugins.registry
    for _ in range(2):
        with pytest.raises(PluginLoadError, match="of holdfast-bad") as caught:
            registry.transport("bad:")
        assert (caught.value.plugin, caught.value.distribution) == ("bad", "holdfast-bad")
        assert registry.load_all() == [caught.value]
    assert [each.spec.scheme for each in registry.transports] == ["a", "z"]
    assert isinstance(registry.transport("a:"), Transport)
    assert registry.schemes == ["a", "z"]


def test_a_broken_plugin_chains_what_it_raised(plugins: Plugins) -> None:
    """The reason is in the message, and the original error behind it."""
    plugins.add("bad", BROKEN["raises"])
    with pytest.raises(PluginLoadError, match="RuntimeError: oops") as caught:
        plugins.registry.spec("bad")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_broken_plugin_leaves_no_hooks_behind(plugins: Plugins) -> None:
    """Of a plugin that failed, no observer, command or dialect stays."""
    plugins.add(
        "bad",
        """
        import holdfast
        @holdfast.hookimpl
        def holdfast_transports():
            return ["x"]
        @holdfast.hookimpl
        def holdfast_status_changed(session, status):
            raise AssertionError
        @holdfast.hookimpl
        def holdfast_commands(cli):
            raise AssertionError
        @holdfast.hookimpl
        def holdfast_dialects():
            return [holdfast.Dialect("bad", "bad")]
        """,
    )
    registry = plugins.registry
    assert len(registry.load_all()) == 1
    calls: list[object] = []
    registry.register(plugin(status=lambda: calls.append("status")))
    registry.observe(SESSION, STATUS)
    registry.add_commands(calls)
    assert calls == ["status"]
    assert "bad" not in registry.dialects


def test_an_interrupt_during_an_import_goes_through(plugins: Plugins) -> None:
    """Ctrl-C is the user's word, and no plugin's mistake."""
    plugins.add("bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.registry.spec("bad")


def test_registering_twice_leaves_the_first(plugins: Plugins) -> None:
    """A name, or an object, that is registered already is refused, and the first one works on."""
    told: list[str] = []
    registry = Registry(entry_points=[])
    first = plugin(spec("x"), commands=lambda cli: told.append("first"))
    registry.register(first, "one")
    with pytest.raises(PluginLoadError):
        registry.register(plugin(spec("y")), "one")
    with pytest.raises(PluginLoadError):
        registry.register(first, "two")
    registry.add_commands(None)
    assert told == ["first"]
    assert [each.spec.scheme for each in registry.transports] == ["x"]
    assert isinstance(registry.transport("x:"), Place)


def test_a_plugin_at_hand_need_not_be_named() -> None:
    """A module or an object is a plugin under its own name."""

    class Extras:
        @holdfast.hookimpl
        def holdfast_transports(self) -> list[TransportSpec]:
            return [spec("x")]

    registry = Registry(entry_points=[])
    registry.register(Extras())
    assert registry.transports[0].plugin == "Extras"
    assert isinstance(registry.transport("x:"), Place)


# -- duplicates -------------------------------------------------------------------------------


def test_two_distributions_with_one_scheme(plugins: Plugins) -> None:
    """Neither is taken at random: both are named, and others work."""
    plugins.add("x", of="holdfast-one")
    plugins.add("x", of="holdfast-two")
    plugins.add("y")
    registry = plugins.registry
    with pytest.raises(DuplicateTransport, match="holdfast-one and by holdfast-two"):
        registry.transport("x:")
    assert len(registry.load_all()) == 1
    assert isinstance(registry.transport("y:"), Transport)


def test_one_distribution_found_twice_is_one(plugins: Plugins) -> None:
    """An installation that shadows another one of the same distribution is no duplicate."""
    plugins.add("x", module="hf_test_same")
    plugins.add("x", None, module="hf_test_same")
    assert isinstance(plugins.registry.transport("x:"), Transport)


def test_a_scheme_that_is_taken(plugins: Plugins) -> None:
    """A plugin that brings another one's scheme is refused, whole."""
    registry = registry_of(plugin(spec("x")))
    with pytest.raises(DuplicateTransport, match="scheme 'x'"):
        registry.register(plugin(spec("y"), spec("x")), "late")
    assert [each.spec.scheme for each in registry.transports] == ["x"]


# -- what a program asks for ------------------------------------------------------------------


def test_an_unknown_scheme_lists_the_known_ones(plugins: Plugins) -> None:
    """The error lists what would have worked, and the nearest, without importing anything."""
    for name in ("local", "ssh", "docker"):
        plugins.add(name)
    registry = plugins.registry
    with pytest.raises(UnknownTransport) as caught:
        registry.transport("dokcer://x")
    assert caught.value.scheme == "dokcer"
    assert caught.value.known == ("docker", "local", "ssh")
    assert "did you mean 'docker'?" in str(caught.value)
    with pytest.raises(UnknownTransport) as caught:
        registry.transport("qqq:")
    assert "did you mean" not in str(caught.value)
    assert plugins.imported == set()


def test_a_plugin_that_does_not_bring_what_it_is_named_after(plugins: Plugins) -> None:
    """Where ``x`` brings ``y``, ``x:`` is unknown, and ``y:`` is known from then on."""
    plugins.add("x", GOOD.replace("{scheme!r}", "'y'").replace("{{", "{").replace("}}", "}"))
    registry = plugins.registry
    with pytest.raises(UnknownTransport, match="known: y"):
        registry.transport("x:")
    assert registry.spec("y").scheme == "y"


def test_an_unknown_option_is_refused() -> None:
    """An option that the transport lacks is named, with the nearest and all it has."""
    registry = registry_of(plugin(spec("x", timeout="seconds", key="a file")))
    with pytest.raises(InvalidTarget) as caught:
        registry.transport("x:?timeuot=3")
    for words in ("no option 'timeuot'", "did you mean 'timeout'?", "timeout, key"):
        assert words in str(caught.value)
    with pytest.raises(InvalidTarget, match="it has: none"):
        registry_of(plugin(spec("x"))).transport("x:?a=1")


def test_a_factory_that_refuses_a_target() -> None:
    """A ``ValueError`` of a factory is an ``InvalidTarget``; holdfast's own errors go through."""

    def picky(target: Target) -> Transport:
        if target.path == "value":
            raise ValueError("not this")
        raise TransportUnavailable("not here")

    registry = registry_of(plugin(spec("x", picky)))
    with pytest.raises(InvalidTarget, match="not this") as caught:
        registry.transport("x:value")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(TransportUnavailable):
        registry.transport("x:other")


def test_what_is_no_target() -> None:
    """A text without a scheme is refused before any plugin is looked at."""
    with pytest.raises(InvalidTarget):
        Registry(entry_points=[]).transport("build7")


def test_a_dialect_of_a_plugin(plugins: Plugins) -> None:
    """A dialect that is not built in is looked for in the plugins."""
    plugins.add(
        "x",
        """
        import holdfast
        @holdfast.hookimpl
        def holdfast_dialects():
            return [holdfast.Dialect("morse", "dots and dashes", json=False)]
        """,
    )
    registry = plugins.registry
    assert registry.dialect("morse").summary == "dots and dashes"
    assert "x" not in registry.schemes, "it brings no transport"


def test_an_unknown_dialect_lists_the_known_ones() -> None:
    """The error lists the dialects, and the nearest."""
    with pytest.raises(ValueError, match="did you mean 'jsonrpc'") as caught:
        Registry(entry_points=[]).dialect("json-rpc")
    assert "acp, jsonrpc, kimi-wire, lines, lsp, mcp" in str(caught.value)


def test_a_plugin_cannot_change_a_dialect() -> None:
    """A dialect that exists keeps its meaning: a plugin that brings it anew is refused."""
    registry = Registry(entry_points=[])
    before = registry.dialect("mcp")
    with pytest.raises(PluginLoadError, match="'mcp'"):
        registry.register(plugin(spec("x"), dialects=[Dialect("mcp", "mine", recovers=True)]))
    assert registry.dialect("mcp") is before
    assert registry.transports == []


# -- observers and commands -------------------------------------------------------------------

SESSION: Any = SimpleNamespace(id="s")
STATUS = Status("s", State.IDLE, 1, "s/1", None, None, dt.datetime.now(dt.UTC))


def test_observers_are_told_what_they_ask_for() -> None:
    """An observer may take the session, the status, both in any order, or nothing."""
    told: list[object] = []

    def both(status: Status, session: object) -> None:
        told.append((session, status))

    def one(status: Status) -> None:
        told.append(status)

    def none() -> None:
        told.append(None)

    registry = registry_of(*(plugin(status=each) for each in (both, one, none)))
    registry.observe(SESSION, STATUS)
    assert len(told) == 3
    for each in ((SESSION, STATUS), STATUS, None):
        assert each in told


def test_an_observer_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its session, and the other observers are told."""
    told: list[str] = []

    def bad(session: object) -> None:
        raise RuntimeError("oops")

    registry = registry_of(
        plugin(status=lambda: told.append("one")),
        plugin(status=bad),
        plugin(status=lambda: told.append("two")),
    )
    with caplog.at_level(logging.ERROR, "holdfast"):
        registry.observe(SESSION, STATUS)
    assert sorted(told) == ["one", "two"]
    (record,) = caplog.records
    assert "session s" in record.getMessage()
    assert record.exc_info is not None


def test_a_plugin_whose_commands_fail_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One plugin's mistake leaves the other plugins' commands."""
    added: list[object] = []

    def good(cli: object) -> None:
        added.append(cli)

    def bad(cli: object) -> None:
        raise RuntimeError("oops")

    registry = registry_of(*(plugin(commands=each) for each in (good, bad, good)))
    with caplog.at_level(logging.ERROR, "holdfast"):
        registry.add_commands("cli")
    assert added == ["cli", "cli"]
    assert "plugin-1" in caplog.text


def test_a_plugin_without_hooks() -> None:
    """What has no hooks at all brings nothing, and is no error."""
    registry = registry_of(SimpleNamespace(), Channel)
    assert registry.transports == []


SEVERAL = """
    import holdfast

    def place(target):
        raise NotImplementedError

    @holdfast.hookimpl
    def holdfast_transports():
        return [
            holdfast.TransportSpec(scheme, place, "a place", f"{scheme}:")
            for scheme in ("near", "far")
        ]
"""


def test_a_plugin_may_bring_several_schemes(plugins: Plugins) -> None:
    """Each scheme has an entry point; the one module behind them is registered once."""
    plugins.add("near", SEVERAL, of="holdfast-places", module="hf_test_places")
    plugins.add("far", None, of="holdfast-places", module="hf_test_places")
    registry = plugins.registry
    assert registry.spec("far").scheme == "far"
    assert registry.spec("near").scheme == "near"
    assert registry.load_all() == []
    assert [each.spec.scheme for each in registry.transports] == ["far", "near"]


def test_every_plugin_reaps() -> None:
    """What each plugin removed is told, and one that fails hinders no other."""

    def broken() -> list[str]:
        raise OSError("no engine")

    class Reaps:
        def __init__(self, act: Callable[[], list[str]]) -> None:
            self.act = act

        @holdfast.hookimpl
        def holdfast_reap(self) -> list[str]:
            return self.act()

    registry = Registry(entry_points=[])
    registry.register(Reaps(lambda: ["a container"]), "one")
    registry.register(Reaps(broken), "two")
    found = dict(registry.reap())
    assert found["one"] == ["a container"]
    assert isinstance(found["two"], OSError)
