"""Manifests: how a backend says who it is and what it can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from google.protobuf import json_format

from tunefleet.backend.v1.backend_pb2 import (
    BackendManifest,
    Capability,
    FormatScope,
    HeadTiles,
    MemoryPlacement,
    MethodLimit,
    OptionScope,
)
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.backend.choices import train_choices
from tunefleet_core.errors import Reason, TunefleetError

__all__ = [
    "backend_manifest",
    "device_distance",
    "has_capability",
    "method_limit",
    "require_capability",
    "serving_scope",
    "trained_formats",
    "training_scope",
]


def backend_manifest(
    *,
    name: str,
    distribution: str,
    summary: str,
    capabilities: Iterable[Capability.ValueType],
    device_kinds: Iterable[str],
    rank_entry: str = "",
    engine_entry: str = "",
    options_schema: Mapping[str, object] | None = None,
    keep_warm: bool = False,
    forks_ranks: bool = False,
    trained_formats: Iterable[str] = (),
    exported_formats: Iterable[str] = (),
    served_formats: Iterable[str] = (),
    exported_scopes: Mapping[str, Sequence[str]] | None = None,
    trained_scopes: Iterable[FormatScope] = (),
    served_scopes: Iterable[FormatScope] = (),
    methods: Iterable[str] = (),
    method_limits: Iterable[MethodLimit] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    option_scopes: Iterable[OptionScope] = (),
    memory_placements: Iterable[MemoryPlacement] = (),
    head_tiles: HeadTiles | None = None,
    distributed_methods: Iterable[str] = (),
    engine_settings: Iterable[str] = (),
    trackers: Iterable[str] = (),
    tracker_entry: str = "",
) -> BackendManifest:
    """Build a manifest for this contract version.

    The formats are names of quantisation formats that it trains on, writes and serves; the
    exported scopes are those that it writes for some types of model only, format to types; the
    trained and served ones those that it takes for some types, or out of some carriers, only. The
    methods are training methods beside `sft`, the limits types of model that one is not for; the
    choices are fields of a training spec that it honours beyond what every backend does
    (`choices.BASICS`), field to values, none for any. The option scopes say what is left of all
    this beside one of its options, the memory placements where options put what a run keeps in
    memory, the head tiles how it computes the head of a model in parts. The distributed methods are
    those that it runs on several devices, a process for each; the engine settings fields of
    `EngineSettings` that its engine honours. The trackers are those that it can tell the numbers of
    runs to, by the function that `tracker_entry` names. One that forks ranks says that its imports
    start no thread and open no device, so that they can be done once for all its rank processes.

    Example:
        backend_manifest(
            name="mine", distribution="tunefleet-mine", summary="Trains by wishing.",
            capabilities=[Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_SFT],
            device_kinds=["cpu"], rank_entry="tunefleet_mine.rank:MineRank",
        )
    """
    try:
        plugin = f"{distribution}=={version(distribution)}"
    except PackageNotFoundError:
        plugin = distribution
    manifest = BackendManifest(
        name=name,
        contract_version=CONTRACT_VERSION,
        capabilities=sorted(capabilities),
        plugin=plugin,
        device_kinds=list(device_kinds),
        summary=summary,
        keep_warm=keep_warm,
        forks_ranks=forks_ranks,
        rank_entry=rank_entry,
        engine_entry=engine_entry,
        trained_formats=list(trained_formats),
        exported_formats=list(exported_formats),
        served_formats=list(served_formats),
        methods=sorted(methods),
        method_limits=method_limits,
        choices=train_choices(choices or {}),
        option_scopes=option_scopes,
        memory_placements=memory_placements,
        head_tiles=head_tiles,
        distributed_methods=sorted(distributed_methods),
        engine_settings=sorted(engine_settings),
        trackers=sorted(trackers),
        tracker_entry=tracker_entry,
        exported_scopes=[
            FormatScope(format=name, model_types=types) for name, types in (exported_scopes or {}).items()
        ],
        trained_scopes=trained_scopes,
        served_scopes=served_scopes,
    )
    if options_schema is not None:
        json_format.ParseDict(dict(options_schema), manifest.options_schema)
    return manifest


def has_capability(manifest: BackendManifest, capability: Capability.ValueType) -> bool:
    """Return whether a backend declares a capability."""
    return capability in manifest.capabilities


def device_distance(manifest: BackendManifest, kinds: Iterable[str]) -> int:
    """Return how early a manifest names a host's accelerators, 0 first; without one the processor counts.

    What a backend is made for comes first among its `device_kinds`.
    """
    named = list(manifest.device_kinds)
    wanted = {kind for kind in kinds if kind != "cpu"} or {"cpu"}
    return min((named.index(kind) for kind in wanted if kind in named), default=len(named))


def trained_formats(manifest: BackendManifest) -> tuple[str, ...]:
    """Return the quantisation formats that a backend trains adapters on, sorted.

    The capability QLORA_NF4 is older than the list of formats, and says the same of nf4.
    """
    nf4 = ("nf4",) if has_capability(manifest, Capability.CAPABILITY_QLORA_NF4) else ()
    return tuple(sorted({*manifest.trained_formats, *nf4}))


def training_scope(manifest: BackendManifest, form: str) -> FormatScope:
    """Return the only models of a format that a backend trains on; an empty scope: all."""
    return _scope_of(manifest.trained_scopes, form)


def serving_scope(manifest: BackendManifest, form: str) -> FormatScope:
    """Return the only models of a format that an engine loads; an empty scope: all."""
    return _scope_of(manifest.served_scopes, form)


def method_limit(manifest: BackendManifest, method: str, model_types: Iterable[str]) -> str:
    """Return why a backend trains none of these types of model by a method; empty: it trains one."""
    wanted = set(model_types)
    limits = (limit for limit in manifest.method_limits if limit.method == method)
    return next((limit.reason for limit in limits if wanted and wanted <= set(limit.model_types)), "")


def _scope_of(scopes: Iterable[FormatScope], form: str) -> FormatScope:
    return next((scope for scope in scopes if scope.format == form), FormatScope(format=form))


def require_capability(manifest: BackendManifest, capability: Capability.ValueType) -> None:
    """Raise CAPABILITY_UNSUPPORTED unless a backend declares a capability."""
    if not has_capability(manifest, capability):
        word = Capability.Name(capability).removeprefix("CAPABILITY_")
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"Backend '{manifest.name}' does not have the capability {word}.",
            hint="Choose a backend that has it: tunefleet plugins list",
            metadata={"backend": manifest.name, "capability": word},
        )
