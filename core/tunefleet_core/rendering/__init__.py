"""Rows to token ids and loss masks, with the resolved template only: one way for every backend that trains.

Runs in a backend's environment, on its tokenizer of transformers; needs no torch.
"""

from tunefleet_core.rendering.answered import Answer, AnsweredRow, answered_rows, first_prompt
from tunefleet_core.rendering.contract_record import adapter_record, contract_record, reference_prefixes
from tunefleet_core.rendering.mask_audit import audit
from tunefleet_core.rendering.once import renderer_of, rows_of_file
from tunefleet_core.rendering.prefix_breaks import prefix_breaks
from tunefleet_core.rendering.preflight import (
    is_preflight_wanted,
    longest_rows,
    naming_full_disk_of,
    prompt_to_try,
    require_number,
    require_room,
    rows_to_try,
    stop_if_asked,
)
from tunefleet_core.rendering.renderer import (
    ChatMessages,
    ChatTools,
    RenderedRow,
    Renderer,
    TemplateRefusedError,
)
from tunefleet_core.rendering.rows import (
    TrainingRows,
    data_of_role,
    judge_over_long,
    of_source,
    refuse_template,
    render_row,
    render_rows,
)
from tunefleet_core.rendering.scoring import require_fields, scorers_of
from tunefleet_core.rendering.shown import (
    has_left_out_thoughts,
    held,
    reference_needs,
    require_shown,
    shown_by,
)
from tunefleet_core.rendering.supervised import general_rows, training_rows
from tunefleet_core.rendering.template_equality import template_difference
from tunefleet_core.rendering.tokenizer import first_line, load_tokenizer, unusable_base

__all__ = [
    "Answer",
    "AnsweredRow",
    "ChatMessages",
    "ChatTools",
    "RenderedRow",
    "Renderer",
    "TemplateRefusedError",
    "TrainingRows",
    "adapter_record",
    "answered_rows",
    "audit",
    "contract_record",
    "data_of_role",
    "first_line",
    "first_prompt",
    "has_left_out_thoughts",
    "held",
    "judge_over_long",
    "load_tokenizer",
    "longest_rows",
    "naming_full_disk_of",
    "of_source",
    "prefix_breaks",
    "reference_needs",
    "reference_prefixes",
    "refuse_template",
    "render_row",
    "render_rows",
    "renderer_of",
    "require_fields",
    "require_shown",
    "require_number",
    "require_room",
    "rows_to_try",
    "rows_of_file",
    "scorers_of",
    "shown_by",
    "template_difference",
    "general_rows",
    "training_rows",
    "unusable_base",
    "is_preflight_wanted",
    "prompt_to_try",
    "stop_if_asked",
]
