"""Find plugins and load each in isolation: a broken one is a record, not a crash.

There is no global state: `load_plugins` returns a value. Only pluggy's public
interface is used. Each plugin loads under a time limit, so that one that hangs costs
its own place and a few seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast

import pluggy

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet_core import CONTRACT_VERSION, __version__
from tunefleet_core.catalog.family import Family
from tunefleet_core.catalog.format import Format
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.plugins import builtin, hookspecs
from tunefleet_core.plugins.faults import PluginFault, refuse_bad_manifest, shown, within
from tunefleet_core.plugins.record import PluginRecord, PluginStatus
from tunefleet_core.recipes import JobRecipe
from tunefleet_core.rewards import Reward

__all__ = ["ALLOW_VARIABLE", "GROUP", "PluginSet", "find_backend", "load_plugins", "plugin_names"]

GROUP = "tunefleet"
"""Entry-point group, and pluggy's project name."""

ALLOW_VARIABLE = "TUNEFLEET_PLUGINS"
"""Environment variable: names of the plugins to load, with commas. Unset: all of them."""

LOAD_SECONDS = 10.0
"""Time limit of one plugin: loading takes milliseconds, for nothing heavy may be imported."""

_T = TypeVar("_T")

Guard = Callable[[], AbstractContextManager[None]]
"""Surrounds the loading of each plugin; may raise a PluginFault at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSet:
    """The plugins of this environment, loaded once and frozen."""

    records: tuple[PluginRecord, ...]
    _families: tuple[Family, ...]
    _backends: tuple[BackendManifest, ...]
    _formats: tuple[Format, ...] = ()
    _recipes: tuple[JobRecipe, ...] = ()
    _rewards: tuple[Reward, ...] = ()

    def families(self) -> tuple[Family, ...]:
        """Return the model families of every active plugin."""
        return self._families

    def backends(self) -> tuple[BackendManifest, ...]:
        """Return the manifests of every plugin that loaded, those of another contract version too."""
        return self._backends

    def formats(self) -> tuple[Format, ...]:
        """Return the quantisation formats of every active plugin."""
        return self._formats

    def recipes(self) -> tuple[JobRecipe, ...]:
        """Return the recipes of every active plugin."""
        return self._recipes

    def rewards(self) -> tuple[Reward, ...]:
        """Return the rewards of every active plugin, ours first."""
        return self._rewards

    def failed(self) -> tuple[PluginRecord, ...]:
        """Return the plugins that do not work."""
        return tuple(record for record in self.records if record.status is PluginStatus.FAILED)


def load_plugins(
    allow: str | None = None, *, guard: Guard = nullcontext, limit_seconds: float = LOAD_SECONDS
) -> PluginSet:
    """Load the plugins of this environment.

    Args:
        allow: Names of entry points or distributions, with commas; empty: none but the
            built-in one. None: what the environment variable TUNEFLEET_PLUGINS says,
            and all of them if it is unset.
        guard: Surrounds the loading of each plugin.
        limit_seconds: Time limit of each plugin.

    Example:
        >>> [record.name for record in load_plugins("").records if record.status == "ACTIVE"]
        ['builtin']
    """
    loader = _Loader(guard=guard, limit_seconds=limit_seconds)
    loader.add(
        PluginRecord(name="builtin", dist=GROUP, version=__version__, status=PluginStatus.ACTIVE),
        lambda: builtin,
    )
    allowed = _allowed(allow)
    for point in _points():
        if _is_allowed(point, allowed):
            loader.add(_record(point), point.load)
        else:
            loader.disable(_record(point))
    return loader.loaded()


def find_backend(name: str) -> BackendManifest:
    """Return the manifest of one backend, loading no more plugins than it takes.

    The one whose entry point or distribution is named after the backend is asked first,
    so that no other plugin of the environment can disturb it.

    Raises:
        TunefleetError: BACKEND_NOT_INSTALLED, with the reason if its plugin is broken.
    """
    allowed = _allowed(None)
    points = [point for point in _points() if _is_allowed(point, allowed)]
    failed: PluginRecord | None = None
    for point in sorted(points, key=lambda point: not _is_named(point, name)):
        loader = _Loader()
        loader.add(_record(point), point.load)
        for manifest in loader.backends:
            if manifest.name == name:
                return manifest
        if _is_named(point, name) and loader.records[0].status is PluginStatus.FAILED:
            failed = loader.records[0]
    raise TunefleetError(
        Reason.BACKEND_NOT_INSTALLED,
        failed.error if failed else f"This environment has no backend '{name}'.",
        hint=(failed.hint if failed else "") or f"tunefleet plugins install {name}",
        metadata={"backend": name},
    )


def plugin_names() -> list[str]:
    """Return the names of the plugins to load, without loading one."""
    allowed = _allowed(None)
    return list(dict.fromkeys(point.name for point in _points() if _is_allowed(point, allowed)))


def _points() -> list[EntryPoint]:
    """Return the entry points but the built-in one, in the order in which they load."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (_dist(point), point.name))
    return [point for point in points if point.value != builtin.__name__]


def _allowed(allow: str | None) -> set[str] | None:
    wanted = os.environ.get(ALLOW_VARIABLE) if allow is None else allow
    return None if wanted is None else {name.strip() for name in wanted.split(",") if name.strip()}


def _is_allowed(point: EntryPoint, allowed: set[str] | None) -> bool:
    return allowed is None or not allowed.isdisjoint({point.name, _dist(point)})


def _is_named(point: EntryPoint, name: str) -> bool:
    return name in (point.name, _dist(point).removeprefix(f"{GROUP}-"))


def _record(point: EntryPoint) -> PluginRecord:
    return PluginRecord(
        name=point.name, dist=_dist(point), version=_version(point), status=PluginStatus.ACTIVE
    )


def _dist(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist is not None else "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Brought:
    """What one plugin brings."""

    families: Sequence[Family]
    backends: Sequence[BackendManifest]
    formats: Sequence[Format]
    recipes: Sequence[JobRecipe]
    rewards: Sequence[Reward]

    def claims(self) -> list[tuple[str, str]]:
        """Return the names that no other plugin may bring, each with its kind."""
        types = [model_type for family in self.families for model_type in family.model_types]
        return [
            *(("model type", model_type) for model_type in types),
            *(("backend", backend.name) for backend in self.backends),
            *(("format", quantisation.name) for quantisation in self.formats),
            *(("recipe", recipe.name) for recipe in self.recipes),
            *(("reward", reward.name) for reward in self.rewards),
        ]


@dataclass(slots=True)
class _Loader:
    """Takes plugins in one by one; each is in whole or not at all."""

    guard: Guard = nullcontext
    limit_seconds: float = LOAD_SECONDS
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(GROUP))
    records: list[PluginRecord] = field(default_factory=list[PluginRecord])
    families: list[Family] = field(default_factory=list[Family])
    backends: list[BackendManifest] = field(default_factory=list[BackendManifest])
    formats: list[Format] = field(default_factory=list[Format])
    recipes: list[JobRecipe] = field(default_factory=list[JobRecipe])
    rewards: list[Reward] = field(default_factory=list[Reward])
    # Who brought what, such as ("model type", "qwen3"), for naming both sides of a conflict.
    owners: dict[tuple[str, str], PluginRecord] = field(default_factory=dict[tuple[str, str], PluginRecord])

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(hookspecs)

    def disable(self, record: PluginRecord) -> None:
        """Note a plugin that is installed but not wanted."""
        self.records.append(
            replace(
                record,
                status=PluginStatus.DISABLED,
                error=f"Plugin '{record.name}' is left out by {ALLOW_VARIABLE}.",
                hint=f"Add it to {ALLOW_VARIABLE}, or unset the variable.",
            )
        )

    def add(self, record: PluginRecord, load: Callable[[], object]) -> None:
        """Load a plugin and take what it brings, or note why not."""
        taken: list[object] = []  # the plugin, once it is imported
        try:
            with self.guard():
                brought = within(self.limit_seconds, lambda: self._take(record, load, taken))
            claims = brought.claims()
            self._refuse_conflicts(record, claims)
        except PluginFault as error:
            for plugin in taken:
                if self.manager.is_registered(plugin):
                    self.manager.unregister(plugin)
            fact = f"Plugin '{record.name}' of {record.dist} {record.version} {error.fact}."
            self.records.append(replace(record, status=PluginStatus.FAILED, error=fact, hint=error.hint))
            return
        self.owners.update(dict.fromkeys(claims, record))
        self.families += brought.families
        self.backends += brought.backends
        self.formats += brought.formats
        self.recipes += brought.recipes
        self.rewards += brought.rewards
        self.records.append(_active(record, brought))

    def loaded(self) -> PluginSet:
        """Return what was taken in."""
        return PluginSet(
            records=tuple(self.records),
            _families=tuple(self.families),
            _backends=tuple(self.backends),
            _formats=tuple(self.formats),
            _recipes=tuple(self.recipes),
            _rewards=tuple(self.rewards),
        )

    def _take(self, record: PluginRecord, load: Callable[[], object], taken: list[object]) -> _Brought:
        """Import, register and ask a plugin; its code runs here and nowhere else."""
        plugin = self._import(record, load)
        taken.append(plugin)
        self._register(record, plugin)
        brought = _Brought(
            families=self._ask(record, plugin, "tunefleet_families", Family),
            backends=self._ask(record, plugin, "tunefleet_backends", BackendManifest),
            formats=self._ask(record, plugin, "tunefleet_formats", Format),
            recipes=self._ask(record, plugin, "tunefleet_recipes", JobRecipe),
            rewards=self._ask(record, plugin, "tunefleet_rewards", Reward),
        )
        for manifest in brought.backends:
            refuse_bad_manifest(manifest)
        return brought

    def _import(self, record: PluginRecord, load: Callable[[], object]) -> object:
        try:
            return load()
        except (Exception, SystemExit) as error:
            raise PluginFault(
                f"cannot be imported: {shown(error)}",
                f"Reinstall it, or remove it: pip uninstall {record.dist}",
            ) from error

    def _register(self, record: PluginRecord, plugin: object) -> None:
        if self.manager.has_plugin(record.name):
            other = next(item for item in self.records if item.name == record.name)
            raise PluginFault(
                f"has the same name as a plugin of {other.dist} {other.version}",
                f"Remove one of the two: pip uninstall {record.dist}",
            )
        try:
            self.manager.register(plugin, name=record.name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginFault(
                f"does not fit the hooks: {shown(error)}",
                f"Upgrade the older side of {record.dist} and tunefleet.",
            ) from error

    def _ask(self, record: PluginRecord, plugin: object, hook: str, kind: type[_T]) -> list[_T]:
        """Call one hook of one plugin and check what it returns."""
        others: Iterable[object] = [item for item in self.manager.get_plugins() if item is not plugin]
        caller = self.manager.subset_hook_caller(hook, others)
        try:
            answers = cast("list[object]", caller())
            if not all(isinstance(answer, Sequence) for answer in answers):
                raise TypeError(f"{hook} must return a sequence of {kind.__name__}")
            items = [item for answer in cast("list[Sequence[object]]", answers) for item in answer]
            for item in items:
                if not isinstance(item, kind):
                    raise TypeError(f"{hook} returned a {type(item).__name__}, not a {kind.__name__}")
        except (Exception, SystemExit) as error:
            raise PluginFault(
                f"failed in {hook}: {shown(error)}", f"Report it to the makers of {record.dist}."
            ) from error
        return cast("list[_T]", items)

    def _refuse_conflicts(self, record: PluginRecord, claims: Sequence[tuple[str, str]]) -> None:
        for index, (kind, name) in enumerate(claims):
            other = self.owners.get((kind, name))
            if other is None and (kind, name) not in claims[:index]:
                continue
            owner = f"{other.dist} {other.version} brings already" if other else "it brings twice"
            raise PluginFault(
                f"brings the {kind} '{name}', which {owner}",
                f"Uninstall one of the two, or name the wanted plugins in {ALLOW_VARIABLE}.",
            )


def _active(record: PluginRecord, brought: _Brought) -> PluginRecord:
    record = replace(
        record,
        families=tuple(family.name for family in brought.families),
        backends=tuple(backend.name for backend in brought.backends),
        formats=tuple(quantisation.name for quantisation in brought.formats),
        recipes=tuple(recipe.name for recipe in brought.recipes),
    )
    for backend in brought.backends:
        if backend.contract_version != CONTRACT_VERSION:
            return replace(
                record,
                status=PluginStatus.INCOMPATIBLE,
                error=f"Backend '{backend.name}' of {record.dist} {record.version} speaks contract "
                f"{backend.contract_version}, this tunefleet speaks {CONTRACT_VERSION}.",
                hint="Upgrade the older side of the two.",
            )
    return record
