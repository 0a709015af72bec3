"""Reads what stands between the marks of a call: JSON, parameters in tags, and DeepSeek's ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from tunefleet_core.tool_calls.written import Call, Schemas, call_of, call_with, parse_json

__all__ = ["read_deepseek", "read_dsml", "read_list", "read_one", "read_tagged", "read_whole"]

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*\n?(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_DSML_INVOKE = re.compile(r'\s*<｜DSML｜invoke name="([^"\n]+)">\s*(.*?)</｜DSML｜invoke>\s*', re.DOTALL)
_DSML_PARAMETER = re.compile(
    r'\s*<｜DSML｜parameter name="([^"\n]+)" string="(true|false)">(.*?)</｜DSML｜parameter>\s*', re.DOTALL
)
_DEEPSEEK_CALL = re.compile(
    r"\s*<｜tool▁call▁begin｜>(.*?)<｜tool▁sep｜>(.*?)<｜tool▁call▁end｜>\s*", re.DOTALL
)
_FENCED = re.compile(r"([^\n]+)\n```json\n(.*?)\n?```\s*", re.DOTALL)


def read_one(text: str, member: str) -> list[Call] | None:
    """Read one JSON object with its arguments in `member`."""
    found = call_of(parse_json(text), member)
    return [found] if found else None


def read_whole(text: str, schemas: Schemas) -> list[Call] | None:
    """Read an answer that is a call, and not an object that merely has a name: no mark tells them apart."""
    value = parse_json(text)
    is_call = isinstance(value, dict) and "parameters" in value and value.get("name") in schemas
    return read_one(text, "parameters") if is_call else None


def read_list(text: str) -> list[Call] | None:
    """Read a JSON list of calls."""
    listed = parse_json(text)
    if not isinstance(listed, list) or not listed:
        return None
    calls = [call_of(one, "arguments") for one in cast("list[object]", listed)]
    return cast("list[Call]", calls) if all(calls) else None


def read_tagged(text: str, schemas: Schemas) -> list[Call] | None:
    """Read parameters in tags of their own: texts stand as they are, everything else as JSON."""
    if (found := _FUNCTION.fullmatch(text)) is None:
        return None
    name, body = found[1].strip(), found[2]
    if _PARAMETER.sub("", body).strip():
        return None
    properties = cast("Mapping[str, Any]", schemas.get(name, {}).get("properties") or {})
    arguments = {key: _value(text, properties.get(key)) for key, text in _PARAMETER.findall(body)}
    return [Call(name=name, arguments=json.dumps(arguments, ensure_ascii=False))]


def read_dsml(text: str) -> list[Call] | None:
    """Read DeepSeek's markup since V3.2: a parameter says itself whether it is a text or JSON."""
    if not text.strip() or _DSML_INVOKE.sub("", text).strip():
        return None
    calls: list[Call] = []
    for name, body in _DSML_INVOKE.findall(text):
        if _DSML_PARAMETER.sub("", body).strip():
            return None
        arguments = {
            key: value if is_text == "true" else parse_json(value)
            for key, is_text, value in _DSML_PARAMETER.findall(body)
        }
        calls.append(Call(name=name, arguments=json.dumps(arguments, ensure_ascii=False)))
    return calls


def read_deepseek(text: str) -> list[Call] | None:
    """Read the calls of DeepSeek V3 and R1, whose JSON is fenced, and of V3.1, whose JSON is not."""
    if not text.strip() or _DEEPSEEK_CALL.sub("", text).strip():
        return None
    calls: list[Call | None] = []
    for before, body in _DEEPSEEK_CALL.findall(text):
        fenced = _FENCED.fullmatch(body)
        calls.append(call_with(fenced[1].strip(), fenced[2]) if fenced else call_with(before.strip(), body))
    return cast("list[Call]", calls) if all(calls) else None


def _value(text: str, schema: object) -> object:
    kind = cast("dict[str, object]", schema).get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return text
    read = parse_json({"True": "true", "False": "false", "None": "null"}.get(text, text))
    return text if read is None and text not in ("null", "None") else read
