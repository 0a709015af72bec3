"""Messages built from their descriptors, most of them nearly right: what is wrong is deep inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from hypothesis import strategies as st

from tunefleet.artifact.v1.artifact_pb2 import ArtifactKind, File, Manifest
from tunefleet.artifact.v1.blob_service_pb2 import UploadBlobRequest, UploadStart
from tunefleet.backend.v1.run_pb2 import RunOrder
from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec
from tunefleet.fleet.v1.fleet_pb2 import Service, ServiceKind
from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, Hello
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core import CONTRACT_VERSION

__all__ = ["bytes_for", "messages", "take_as_right"]

_DEEPEST = 5
_NAMES = (
    "",
    "projects/default",
    "projects/default/jobs/none",
    "projects/default/datasets/none",
    "projects/default/models/none",
    "projects/default/deployments/none",
    "projects/../jobs/x",
    "projects//jobs/",
    "services/none",
    "services/",
    "tokens/none",
    "tokens/",
    "default",
    "echo",
    "trl",
    "a" * 64,
    "0" * 64,
    "../../etc/passwd",
    "6f1c1f0e-0000-4000-8000-000000000001",
    "\x00",
    "é" * 5000,
    "a" * 100_000,
    "%s%n{}",
    "admin",
    "nothing.jsonl",
)
_TEXTS = st.one_of(st.sampled_from(_NAMES), st.text(max_size=30))
_DOUBLES = st.one_of(
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e308, 5e-324]), st.floats()
)


# Right values by the field's name: what is wrong elsewhere must be reached, not hidden behind these.
_RIGHT: dict[str, tuple[str, ...]] = {
    "request_id": ("", "6f1c1f0e-0000-4000-8000-000000000001", "6f1c1f0e-0000-4000-8000-000000000002"),
    "parent": ("projects/default",),
    "page_token": ("", "WyJhIl0", "WzEuMCwiYSJd", "W10", "bnVsbA", "WzFlOTk5LCJhIl0"),
    "backend": ("", "echo", "trl"),
    "engine": ("", "echo"),
    "role": ("user", "viewer", "admin"),
    "project": ("", "default"),
    "digest": ("0" * 64,),
    "sha256": ("0" * 64, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    "etag": ("", "1"),
    "source": ("nothing.jsonl", "datasets/none"),
    "model": ("nothing", "models/none", "org/name"),
    "server": ("fuzz",),
    "service": ("services/fuzz-1", "services/fuzz-2"),
    "hosts": ("localhost", "127.0.0.1", "fuzz.example"),
    "run": ("a", "b"),
    "deployment": ("a",),
}
# Where a process would read and write: below its own folder, or nowhere.
_PATHS = ("", "work", "work/none", "x" * 300, "none\x00")
_PATH_FIELDS = {"path", "work_dir", "resume_from", "adapter_dir", "companion_adapter_dirs", "log_folder"}
_DIGEST = "0" * 64
_SPEC = {
    "name": "fuzz",
    "backend": "echo",
    "train": {
        "base": {"model": "nothing"},
        "data": {"train": [{"source": "nothing.jsonl"}]},
        "method": {"sft": {}},
        "adapter": {"lora": {"rank": 8}},
        "optim": {"maxSteps": 4},
    },
}
_JOB = json_format.ParseDict(_SPEC, JobSpec())
# Messages that are right: with something of them changed they reach far behind the first check.
_SEEDS: dict[str, Message] = {
    seed.DESCRIPTOR.full_name: seed
    for seed in (
        _JOB,
        Hello(
            service=Service(name="services/fuzz", kind=ServiceKind.SERVICE_KIND_TRAINER),
            contract_versions=[CONTRACT_VERSION],
        ),
        AttachRequest(
            hello=Hello(
                service=Service(name="services/fuzz", kind=ServiceKind.SERVICE_KIND_TRAINER),
                contract_versions=[CONTRACT_VERSION],
            )
        ),
        DeploymentSpec(model="nothing", engine="echo"),
        Manifest(
            digest=_DIGEST,
            kind=ArtifactKind.ARTIFACT_KIND_ADAPTER,
            files=[File(path="a.json", size_bytes=1, sha256=_DIGEST)],
        ),
        UploadBlobRequest(start=UploadStart(sha256=_DIGEST, size_bytes=4)),
        RunOrder(run="a", attempt=1, work_dir="work", resolved_spec=ResolvedSpec(spec=_JOB)),
    )
}
_OF_FILE = {"job": "jobs", "model": "models", "deployment": "deployments", "dataset": "datasets"}


def take_as_right(message: Message, **values: tuple[str, ...]) -> None:
    """Take for right what only a running fleet knows, such as the secret of a token.

    Args:
        message: One that is right.
        values: Right values by the names of fields, wherever they stand.
    """
    _RIGHT.update(values)
    _SEEDS[message.DESCRIPTOR.full_name] = message


def _right_of(field: FieldDescriptor) -> tuple[str, ...] | None:
    right = _RIGHT.get(field.name)
    noun = field.file.package.split(".")[1]
    if field.name == "name" and noun in _OF_FILE:
        right = tuple(f"projects/default/{_OF_FILE[noun]}/{end}" for end in ("none", "a", "b"))
    elif field.name == "name":
        right = ("services/none", "tokens/none", "services/a", "tokens/a")
    elif field.name.endswith("_id") and right is None:
        right = ("a", "b")
    elif field.name.endswith("_uid"):
        right = ("0" * 32,)
    return right


def _texts_of(field: FieldDescriptor) -> st.SearchStrategy[str]:
    if field.name in _PATH_FIELDS and field.file.package != "tunefleet.artifact.v1":
        return st.sampled_from(_PATHS)
    right = _right_of(field)
    return _TEXTS if right is None else st.one_of(st.sampled_from(right), st.sampled_from(right), _TEXTS)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    return _texts_of(field) if field.type == FieldDescriptor.TYPE_STRING else _SCALARS[field.type]


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    edges = [value for value in (low, -1, 0, 1, 2, 500, 501, high) if low <= value <= high]
    return st.one_of(st.sampled_from(edges), st.integers(low, high))


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=50),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: _DOUBLES,
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_INT32: _integers(32, signed=True),
    FieldDescriptor.TYPE_INT64: _integers(64, signed=True),
    FieldDescriptor.TYPE_UINT32: _integers(32, signed=False),
    FieldDescriptor.TYPE_UINT64: _integers(64, signed=False),
    FieldDescriptor.TYPE_ENUM: st.one_of(st.integers(0, 8), st.sampled_from([-1, 99, 2**31 - 1])),
}


@st.composite
def messages(draw: Callable[..., Any], descriptor: Descriptor, depth: int = 0) -> Message:
    """Draw a message of a type; any field may be left out."""
    message = GetMessageClass(descriptor)()
    if descriptor.full_name == Struct.DESCRIPTOR.full_name:
        return _struct(draw)
    is_seeded = descriptor.full_name in _SEEDS and draw(st.integers(0, 3)) > 0
    if is_seeded:
        message.CopyFrom(_SEEDS[descriptor.full_name])
    for field in descriptor.fields:
        if depth == 0 and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            # What a request is about is right mostly, so that the rest of it is read.
            right = _right_of(field)
            if right and draw(st.integers(0, 7)):
                setattr(message, field.name, draw(st.sampled_from(right)))
                continue
        # Of a message that was right, little is made wrong.
        if draw(st.integers(0, 3)) <= (2 if is_seeded else 0) or (depth >= _DEEPEST and field.message_type):
            continue
        _fill(draw, message, field, depth)
    return message


def _fill(draw: Callable[..., Any], message: Message, field: FieldDescriptor, depth: int) -> None:
    times = draw(st.integers(1, 2)) if field.is_repeated else 1
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    for _ in range(times):
        if is_map:
            _fill_map(draw, getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            part = draw(messages(field.message_type, depth + 1))
            if field.is_repeated:
                getattr(message, field.name).add().CopyFrom(part)
            else:
                getattr(message, field.name).CopyFrom(part)
        else:
            value = draw(_scalar(field))
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)


def _fill_map(draw: Callable[..., Any], target: Any, field: FieldDescriptor, depth: int) -> None:
    key_field, value_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    key = draw(_SCALARS[key_field.type])
    if value_field.message_type is not None:
        target[key].CopyFrom(draw(messages(value_field.message_type, depth + 1)))
    else:
        target[key] = draw(_SCALARS[value_field.type])


def _struct(draw: Callable[..., Any]) -> Struct:
    struct = Struct()
    struct.update({draw(_TEXTS): draw(st.one_of(_DOUBLES, _TEXTS, st.none(), st.booleans()))})
    inner = struct
    for level in range(draw(st.sampled_from([0, 0, 1, 40]))):
        inner = inner.get_or_create_struct(f"level-{level}")
    inner.update({"end": draw(_DOUBLES)})
    return struct


@st.composite
def bytes_for(draw: Callable[..., Any], descriptor: Descriptor) -> bytes:
    """Draw what is sent: a message, a message that was damaged, or bytes that never were one."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    data = draw(messages(descriptor)).SerializeToString()
    if kind == 1 and data:
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
    return data
