"""Show a spec as YAML that reads back to the same spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.spec.descriptors import is_map, is_repeated
from tunefleet_core.spec.tree import resolve_scalar

__all__ = ["spec_to_yaml"]


def spec_to_yaml(spec: JobSpec) -> str:
    """Return the fields that are set, in the order of the proto.

    Example:
        >>> print(spec_to_yaml(JobSpec(name="no")), end="")
        name: "no"
    """
    content = _plain(spec)
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes for readers of YAML 1.1 and of 1.2: quotes whatever either takes for more than text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        is_text = isinstance(resolve_scalar(text), str)
    except ValueError:
        is_text = False
    node = dumper.represent_str(text)
    if not is_text and node.style is None:
        node.style = '"'
    return node


_Dumper.add_representer(str, _text)


def _plain(message: Message) -> dict[str, object]:
    content: dict[str, object] = {}
    for field, value in sorted(message.ListFields(), key=lambda item: item[0].index):
        if is_map(field):
            content[field.name] = dict(cast("Mapping[str, object]", value))
        elif isinstance(value, Struct):
            content[field.name] = _short(json_format.MessageToDict(value))
        elif is_repeated(field):
            content[field.name] = [_plain(item) if isinstance(item, Message) else item for item in value]
        else:
            content[field.name] = _plain(value) if isinstance(value, Message) else _short(value)
    return content


def _short(value: object) -> object:
    """Return whole doubles as integers, which the reader takes for the same."""
    is_signed_zero = value == 0 and str(value).startswith("-")  # an integer has no -0
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 and not is_signed_zero:
        return int(value)
    if isinstance(value, dict):
        return {key: _short(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_short(item) for item in cast("list[object]", value)]
    return value
