"""Check the options of one backend against the JSON Schema that it publishes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError

__all__ = ["check_backend_options", "plain_options"]


def check_backend_options(spec: JobSpec, manifest: BackendManifest) -> None:
    """Check `backend_options`.

    Raises:
        TunefleetError: FIELD_INVALID with every option that does not fit.
    """
    if not spec.backend_options.fields:
        return
    options = plain_options(spec.backend_options)
    schema = plain_options(manifest.options_schema)
    if not schema:
        raise TunefleetError.field(
            "backend_options",
            f"is given, but the backend '{manifest.name}' takes no options",
            hint="Remove backend_options, or choose another backend.",
        )
    violations = list(_violations(schema, options))
    if violations:
        known = ", ".join(sorted(cast("dict[str, object]", schema.get("properties", {})))) or "none"
        raise TunefleetError(
            Reason.FIELD_INVALID,
            "\n".join(f"{violation.field}: {violation.description}" for violation in violations),
            hint=f"Options of the backend '{manifest.name}': {known}.",
            metadata={"backend": manifest.name, "field": violations[0].field},
            violations=violations,
        )


def plain_options(struct: Struct) -> dict[str, object]:
    """Return a Struct as plain values, whole numbers as integers again: a Struct has only doubles."""
    return cast("dict[str, object]", _restored(json_format.MessageToDict(struct)))


def _restored(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_restored(item) for item in cast("list[object]", value)]
    return value


def _violations(schema: dict[str, object], options: dict[str, object]) -> Iterable[FieldViolation]:
    # Only the coordinator checks options; other users of this package lack the library.
    import jsonschema
    from referencing import Registry

    # An empty registry: a schema of a plugin must not make the coordinator fetch anything.
    validator = jsonschema.Draft202012Validator(schema, registry=Registry())
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        errors = sorted(
            validator.iter_errors(cast("dict[str, str]", options)),
            key=lambda error: list(map(str, error.path)),
        )
    except Exception as error:  # whatever a plugin's schema does, the caller hears of it as a fact
        raise TunefleetError(
            Reason.BACKEND_FAILED,
            f"The options schema of the backend cannot be used: {str(error).splitlines()[0]}.",
            hint="Report it to the makers of the backend, or leave backend_options out.",
        ) from error
    for error in errors:
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path]
        yield FieldViolation(field=f"backend_options{''.join(parts)}", description=error.message)
