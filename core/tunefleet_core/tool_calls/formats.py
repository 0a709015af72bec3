"""The ways to write calls that are known, and what reads an answer in each."""

from __future__ import annotations

from collections.abc import Mapping

from tunefleet_core.tool_calls.bodies import (
    read_deepseek,
    read_dsml,
    read_list,
    read_one,
    read_tagged,
    read_whole,
)
from tunefleet_core.tool_calls.literals import read_literal_call
from tunefleet_core.tool_calls.messages import HARMONY_MARKS, HarmonyReader
from tunefleet_core.tool_calls.objects import OBJECTS_MARKS, ObjectsReader
from tunefleet_core.tool_calls.reader import CallReader
from tunefleet_core.tool_calls.written import CallFormat, Schemas

__all__ = ["FORMATS", "reader_of"]

FORMATS = (
    CallFormat(
        name="hermes",
        begin="<tool_call>",
        end="</tool_call>",
        arguments="arguments",
        read=lambda text, _: read_one(text, "arguments"),
    ),
    CallFormat(name="qwen3_coder", begin="<tool_call>", end="</tool_call>", read=read_tagged),
    CallFormat(
        name="mistral", begin="[TOOL_CALLS]", arguments="arguments", read=lambda text, _: read_list(text)
    ),
    CallFormat(name="llama3_json", arguments="parameters", read=read_whole),
    CallFormat(name="llama4_json", inner=OBJECTS_MARKS),
    CallFormat(name="openai", inner=HARMONY_MARKS),
    CallFormat(
        name="deepseek_v3",
        begin="<｜tool▁calls▁begin｜>",
        end="<｜tool▁calls▁end｜>",
        inner=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        read=lambda text, _: read_deepseek(text),
    ),
    CallFormat(
        name="deepseek_v32",
        begin="<｜DSML｜function_calls>",
        end="</｜DSML｜function_calls>",
        inner=("｜DSML｜",),
        read=lambda text, _: read_dsml(text),
    ),
    CallFormat(
        name="deepseek_v4",
        begin="<｜DSML｜tool_calls>",
        end="</｜DSML｜tool_calls>",
        inner=("｜DSML｜",),
        read=lambda text, _: read_dsml(text),
    ),
    CallFormat(
        name="gemma4",
        begin="<|tool_call>",
        end="<tool_call|>",
        inner=('<|"|>',),
        read=lambda text, _: read_literal_call(text, '<|"|>'),
    ),
    CallFormat(
        name="functiongemma",
        begin="<start_function_call>",
        end="<end_function_call>",
        inner=("<escape>",),
        read=lambda text, _: read_literal_call(text, "<escape>"),
    ),
)
"""Named as vLLM names its parsers."""

_READERS: Mapping[str, type[CallReader]] = {"llama4_json": ObjectsReader, "openai": HarmonyReader}
"""What reads a way in which no mark stands around a call alone."""


def reader_of(form: CallFormat, schemas: Schemas, *, is_parallel: bool = True) -> CallReader:
    """Return what takes the calls out of one answer.

    Args:
        form: How calls are written.
        schemas: JSON Schema of the arguments, by name of the function.
        is_parallel: Whether there may be several; else what follows the first one is dropped.
    """
    return _READERS.get(form.name, CallReader)(form, schemas, is_parallel=is_parallel)
