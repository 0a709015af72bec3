"""What is left of a backend beside one of its options: the manifest that a job is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tunefleet.backend.v1.backend_pb2 import BackendManifest, Capability, OptionScope
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.backend.choices import train_choices
from tunefleet_core.errors import TunefleetError

__all__ = ["manifest_for", "option_scope"]


def option_scope(
    *,
    option: str,
    value: str,
    without: Iterable[Capability.ValueType] = (),
    distributed_methods: Iterable[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    least_devices: int = 0,
) -> OptionScope:
    """Build what is left of a backend where an option has a value; see the message."""
    return OptionScope(
        option=option,
        value=value,
        without=sorted(without),
        distributed_methods=sorted(distributed_methods),
        choices=train_choices(choices or {}),
        least_devices=least_devices,
    )


def manifest_for(spec: JobSpec, manifest: BackendManifest) -> BackendManifest:
    """Return the manifest that counts for a job: narrowed by the options that it gives.

    The narrowed one is named with the option, so that a refusal says what it comes from.

    Raises:
        TunefleetError: FIELD_INVALID naming an option that needs more devices.
    """
    for scope in manifest.option_scopes:
        given = spec.backend_options.fields.get(scope.option)
        if given is None or given.string_value != scope.value:
            continue
        if (spec.resources.devices or 1) < scope.least_devices:
            raise TunefleetError.field(
                f"backend_options.{scope.option}",
                f"{scope.value} needs {scope.least_devices} devices or more",
                hint=f"Set resources.devices to {scope.least_devices} or more, or leave the option out.",
            )
        manifest = _narrowed(manifest, scope)
    return manifest


def _narrowed(manifest: BackendManifest, scope: OptionScope) -> BackendManifest:
    left = BackendManifest()
    left.CopyFrom(manifest)
    left.name = f"{manifest.name} with {scope.option}: {scope.value}"
    left.capabilities[:] = [item for item in manifest.capabilities if item not in scope.without]
    for field in ("methods", "distributed_methods", "choices", "trained_formats", "trained_scopes"):
        left.ClearField(field)
    left.distributed_methods.extend(scope.distributed_methods)
    left.methods.extend(name for name in scope.distributed_methods if name != "sft")
    left.choices.extend(scope.choices)
    return left
