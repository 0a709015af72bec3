"""Training rows on disk: JSONL, read strictly, and the digest of a file.

`lines.py` reads lines and `forms.py` says which form a method takes; `rows.py` reads conversations,
`answers.py` prompts and their answers, `texts.py` plain texts; `messages.py` and `tools.py` read what
stands in one, `turns.py` their order. `packing.py` says which rows share a sequence.
"""

from tunefleet_core.data.answers import (
    CompletionRow,
    LabelledRow,
    PairRow,
    PromptRow,
    read_completions,
    read_labelled,
    read_pairs,
    read_prompts,
)
from tunefleet_core.data.counting import count_rows, form_of_file, supervised_form
from tunefleet_core.data.digest import file_digest
from tunefleet_core.data.forms import COMPLETIONS, LABELLED, PAIRS, PROMPTS, TEXTS, Form, form_of_method
from tunefleet_core.data.messages import ROLES, Message, ToolCall, openai_messages
from tunefleet_core.data.mixing import mixed, taken
from tunefleet_core.data.packing import pack_rows, packed_sequences
from tunefleet_core.data.rows import MAX_LINE_BYTES, Row, read_rows
from tunefleet_core.data.texts import TextRow, read_texts
from tunefleet_core.data.tools import Tool, tool_name

__all__ = [
    "COMPLETIONS",
    "LABELLED",
    "MAX_LINE_BYTES",
    "PAIRS",
    "PROMPTS",
    "ROLES",
    "TEXTS",
    "CompletionRow",
    "Form",
    "LabelledRow",
    "Message",
    "PairRow",
    "PromptRow",
    "Row",
    "TextRow",
    "Tool",
    "ToolCall",
    "count_rows",
    "file_digest",
    "form_of_file",
    "form_of_method",
    "mixed",
    "openai_messages",
    "pack_rows",
    "packed_sequences",
    "read_completions",
    "read_labelled",
    "read_pairs",
    "read_prompts",
    "read_rows",
    "read_texts",
    "supervised_form",
    "taken",
    "tool_name",
]
