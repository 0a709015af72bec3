"""Forms that an answer is held to while it is written: what `response_format` asks of an engine.

For engines of ours. vLLM and SGLang do the same by themselves, and by the same library.
"""

from tunefleet_core.answer_forms.form import AnswerForm, FormRefusedError, read_form
from tunefleet_core.answer_forms.grammar import BLANKS, Grammar, Grammars

__all__ = ["BLANKS", "AnswerForm", "FormRefusedError", "Grammar", "Grammars", "read_form"]
