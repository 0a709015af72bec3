"""Calls of tools in what a model writes: found, taken out, and asked for by `tool_choice`.

For engines of ours. How a model writes a call is read off the chat template that it is served
with, so it is what it was trained to write; no setting can name another one.
"""

from tunefleet_core.tool_calls.asked import ToolUse, read_tool_use
from tunefleet_core.tool_calls.formats import FORMATS, reader_of
from tunefleet_core.tool_calls.forms import calls_form
from tunefleet_core.tool_calls.found import find_format
from tunefleet_core.tool_calls.reader import CallReader, Piece
from tunefleet_core.tool_calls.written import Call, CallFormat

__all__ = [
    "FORMATS",
    "Call",
    "CallFormat",
    "CallReader",
    "Piece",
    "ToolUse",
    "calls_form",
    "find_format",
    "read_tool_use",
    "reader_of",
]
