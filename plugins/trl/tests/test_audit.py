"""The mask audit says exactly which text carries loss, and where serving would differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet_core.catalog.base import read_base
from tunefleet_core.catalog.template import choose_template
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_families import LLAMA3, QWEN3
from tunefleet_trl.rank import TrlRank

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi 🙂"},
    {"role": "assistant", "content": "Hällo."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
]


def _order(base: Path, rows: Path, **fields: Any) -> AuditOrder:
    facts = read_base(base)
    template = choose_template(facts, QWEN3).template
    return AuditOrder(
        base=facts,
        chat_template=template,
        files=[AuditFile(role="train", path=str(rows))],
        loss_on="assistant",
        **fields,
    )


def test_the_first_rows_are_shown_as_exact_spans(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    rows = lab.write_rows(tmp_path / "train.jsonl", [{"messages": TURNS}, *[lab.chat("red", "rot")] * 4])
    (file,) = rank.audit(_order(base, rows)).files
    assert len(file.mask.first_rows) == 3
    assert [(span.text, span.is_trained) for span in file.mask.first_rows[0].spans] == [
        (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 🙂<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            False,
        ),
        ("Hällo.<|im_end|>", True),
        ("\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("2<|im_end|>", True),
        ("\n", False),
    ]
    assert file.mask.first_rows[1].line == 2


def test_the_counts_are_right(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    rows = lab.write_rows(
        tmp_path / "train.jsonl", [lab.chat("q", "a" * length) for length in (1, 2, 3, 4, 100)]
    )
    (file,) = rank.audit(_order(base, rows, max_length=60)).files
    mask = file.mask
    short = len("q") + 1 + 4 + len("user\n") + len("assistant\n") + 2 + 4 + 1 + 1  # tokens around the answer
    assert (mask.rows, mask.rows_without_loss, mask.rows_over_long) == (5, 0, 1)
    assert mask.trained_tokens == 1 + 2 + 3 + 4 + 100 + 5, "each answer and its end-of-turn token"
    assert mask.end_of_turn_trained
    low, high, longest = mask.length_percentiles
    assert (high, longest) == (low + 97, low + 97)
    assert abs(low - 3 - short) <= 2, "the median row has an answer of three tokens"
    assert mask.tokens == sum((low - 2, low - 1, low, low + 1, longest))
    assert file.sha256
    assert not mask.prefix_breaks


def test_the_references_are_those_of_the_trainer(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    rows = lab.colours(tmp_path / "train.jsonl")
    (file,) = rank.audit(_order(base, rows)).files
    assert len(file.mask.references) == 8
    first = file.mask.references[0]
    assert json.loads(first.messages_json) == [{"role": "user", "content": "What is the capital of France?"}]
    text = lab.build_tokenizer().decode(list(first.prompt_token_ids))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_template_without_markers_trains_nothing(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    text = order.chat_template.text
    order.chat_template.text = text.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    (file,) = rank.audit(order).files
    assert file.mask.rows_without_loss == file.mask.rows == 8
    assert file.mask.trained_tokens == 0


def test_an_end_of_turn_outside_the_markers_is_found(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    end = "{{- '<|im_end|>' }}\n        {%- endgeneration %}"
    assert end in order.chat_template.text
    moved = order.chat_template.text.replace(end, "{%- endgeneration %}\n        {{- '<|im_end|>' }}")
    order.chat_template.text = moved
    (file,) = rank.audit(order).files
    assert not file.mask.end_of_turn_trained
    assert file.mask.trained_tokens == 2 * sum(len(answer) for _, answer in lab.PAIRS)


def test_a_turn_that_is_served_in_another_context_is_reported(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    thought = lab.chat("Hi", "<think>\ngreet\n</think>\n\nHello.")
    rows = lab.write_rows(tmp_path / "train.jsonl", [lab.chat("red", "rot"), thought])
    (file,) = rank.audit(_order(base, rows)).files
    (found,) = file.mask.prefix_breaks
    assert (found.line, found.turn) == (2, 1)
    assert "greet" in found.trained
    assert "</think>" in found.served
    assert found.token_index > 0


def test_prompts_of_many_rows_are_each_held_against_their_own_row(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    rows = [lab.chat(f"q{number}", "a") for number in range(70)]  # more than are rendered together
    rows[2] = rows[65] = lab.chat("Hi", "<think>\ngreet\n</think>\n\nHello.")
    rows[39] = lab.chat("unanswerable", "a")
    order = _order(base, lab.write_rows(tmp_path / "train.jsonl", rows))
    order.chat_template.text = (
        "{%- if add_generation_prompt and messages[-1].content == 'unanswerable' %}"
        "{{ raise_exception('ask something else') }}{%- endif %}" + order.chat_template.text
    )
    (file,) = rank.audit(order).files
    assert [(found.line, found.turn) for found in file.mask.prefix_breaks] == [(3, 1), (40, 1), (66, 1)]
    assert "ask something else" in file.mask.prefix_breaks[1].served
    assert (file.mask.rows_checked_as_prompts, file.mask.rows_with_prefix_breaks) == (70, 3)


def test_a_template_that_strips_earlier_turns_breaks_on_the_references(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    order.chat_template.text = (
        "{%- for message in messages %}{%- if loop.last or message.role != 'assistant' %}"
        "{%- generation %}{{ message.role + ':' + message.content }}{%- endgeneration %}{%- endif %}"
        "{%- endfor %}{%- if add_generation_prompt %}{{ 'assistant:' }}{%- endif %}"
    )
    (file,) = rank.audit(order).files
    assert {found.line for found in file.mask.prefix_breaks} == {0}


def test_a_frozen_clock_gives_the_same_ids_tomorrow(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    order.chat_template.text = "{{ strftime_now('%Y-%m-%d') }}" + order.chat_template.text
    order.chat_template.frozen_time_seconds = 1_000_000_000
    (file,) = rank.audit(order).files
    assert file.mask.first_rows[0].spans[0].text.startswith("2001-09-09<|im_start|>")


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("generation %}", "generation -%}", ""),
        ("'<|im_end|>\\n'", "'<|im_end|>'", "reference conversation 0"),
        ("'<|im_start|>assistant\\n'", "'<|im_start|>bot\\n'", "token"),
    ],
)
def test_two_templates_are_compared_by_their_ids(
    base: Path, tmp_path: Path, rank: TrlRank, old: str, new: str, difference: str
) -> None:
    assert old in QWEN3.chat_template
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    order.must_match_template = QWEN3.chat_template.replace(old, new)
    found = rank.audit(order).template_difference
    assert bool(found) == bool(difference)
    assert difference in found


def test_a_template_that_is_equal_without_thinking_counts_as_equal(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    """Published templates think by default; a server asks them not to."""
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    order.must_match_template = QWEN3.chat_template.replace(
        "{%- if not (enable_thinking is defined and enable_thinking) %}",
        "{%- if enable_thinking is defined and not enable_thinking %}",
    )
    assert order.must_match_template != QWEN3.chat_template
    assert rank.audit(order).template_difference == ""


def test_the_families_render_the_published_ids(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    """TRL ships copies of published templates: a base that has one can be trained with its family's."""
    from trl.chat_template_utils import llama3_chat_template, qwen3_chat_template

    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    order.must_match_template = qwen3_chat_template
    assert rank.audit(order).template_difference == ""
    order.must_match_template = llama3_chat_template
    assert "the prompt of turn 1 of reference conversation 0" in rank.audit(order).template_difference
    order.chat_template.text = LLAMA3.chat_template
    assert rank.audit(order).template_difference == ""


def test_an_earlier_answer_may_lose_an_empty_thought_but_no_word(
    base: Path, tmp_path: Path, rank: TrlRank
) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    shown = "            {{- content }}\n"
    assert shown in QWEN3.chat_template
    order.must_match_template = QWEN3.chat_template.replace(
        shown, "            {%- if loop.last %}{{- content }}{%- endif %}\n"
    )
    found = rank.audit(order).template_difference
    assert "the prompt of turn 3 of reference conversation 2" in found


@pytest.mark.parametrize(
    ("row", "field"),
    [({"messages": []}, "messages"), ({"messages": [{"role": "user", "content": "x"}]}, "messages")],
)
def test_a_wrong_row_is_named(base: Path, tmp_path: Path, rank: TrlRank, row: object, field: str) -> None:
    rows = lab.write_rows(tmp_path / "train.jsonl", [lab.chat("red", "rot"), row])
    with pytest.raises(TunefleetError, match=rf"train\.jsonl:2: {field}") as caught:
        rank.audit(_order(base, rows))
    assert caught.value.reason is Reason.DATA_INVALID


def test_a_row_the_template_refuses_is_named(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    rows = lab.write_rows(tmp_path / "train.jsonl", [lab.chat("red", "rot")])
    order = _order(base, rows)
    order.chat_template.text = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TunefleetError, match=r"train\.jsonl:1: messages: .*roles must alternate") as caught:
        rank.audit(order)
    assert caught.value.reason is Reason.DATA_INVALID


def test_a_folder_without_a_tokenizer_is_refused(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    order = _order(base, lab.colours(tmp_path / "train.jsonl"))
    empty = tmp_path / "empty"
    empty.mkdir()
    order.base.path = str(empty)
    with pytest.raises(TunefleetError, match="tokenizer cannot be loaded") as caught:
        rank.audit(order)
    assert caught.value.reason is Reason.BASE_INVALID


def test_listing_the_backend_and_its_rank_imports_no_heavy_library() -> None:
    code = (
        "import sys, tunefleet_trl.plugin, tunefleet_trl.rank\n"
        "(manifest,) = tunefleet_trl.plugin.tunefleet_backends()\n"
        "assert manifest.name == 'trl' and manifest.keep_warm\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_warming_imports_what_a_run_needs_and_touches_no_device() -> None:
    code = (
        "import sys, threading\n"
        "from tunefleet_trl.rank import TrlRank\n"
        "TrlRank().warm()\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert 'tunefleet_trl.training' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
