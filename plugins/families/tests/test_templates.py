"""Hold every chat form to its published text, and its mask to the assistant's words.

Rows with tools and thoughts are in `test_tools_in_templates.py`.
"""

from __future__ import annotations

import pytest

from tunefleet_families.plugin import FAMILIES

pytest.importorskip("transformers", reason="rendering needs the trl environment")
from chat_forms import (  # found through conftest.py
    BY_NAME,
    CHATS,
    FORM,
    FORMS,
    Form,
    build_tokenizer,
    prompts,
    published_text,
    render,
    trained_spans,
    without_empty_thoughts,
)

pytestmark = pytest.mark.backend


def test_every_form_of_every_family_is_held_to_something() -> None:
    forms = {(form.family, form.variant) for form in FORMS}
    assert forms == {
        (family.name, name) for family in FAMILIES for name in ("", *(v.name for v in family.variants))
    }


@FORM
def test_the_ids_are_those_of_the_published_text(form: Form) -> None:
    if not form.published:
        pytest.skip("no published text may be shown here, and none is claimed to be equal")
    published, tokenizer = published_text(form), build_tokenizer(form)
    off = {"enable_thinking": False} if form.has_empty_thoughts else {}
    compared = 0
    for chat in CHATS:
        asked = [(prompt, {"add_generation_prompt": True}) for _, prompt in prompts(chat)]
        for messages, arguments in [(chat, {}), *(asked if form.compares_prompts else [])]:
            ours = render(tokenizer, form.template, messages, tokenize=False, **arguments)
            theirs = render(tokenizer, published, messages, tokenize=False, **off, **arguments)
            answers = sum(message["role"] == "assistant" for message in messages)
            if form.has_empty_thoughts and ours and answers + bool(arguments) > 1:
                ours, theirs = (without_empty_thoughts(text) for text in (ours, theirs))
            assert ours == theirs
            if ours is not None:
                ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours, theirs)]
                assert ids[0] == ids[1]
                compared += 1
    assert compared >= 4


@FORM
def test_a_template_that_knows_a_developer_takes_the_system_for_one(form: Form) -> None:
    # The gateway says `system` to engines where a client says `developer`.
    if "developer" not in form.template:
        pytest.skip("its template has no role of that name")
    tokenizer = build_tokenizer(form)
    asked = {"role": "user", "content": "What is a ticket?"}
    said = [
        render(tokenizer, template, [{"role": role, "content": "Be brief."}, asked], tokenize=False)
        for role in ("developer", "system")
        for template in (form.template, *([published_text(form)] if form.published else []))
    ]
    assert said[0] is not None
    assert "Be brief." in said[0]
    assert len(set(said)) == 1


@FORM
def test_the_mask_covers_the_words_and_the_end_of_turn_and_nothing_else(form: Form) -> None:
    tokenizer = build_tokenizer(form)
    for chat in CHATS:
        row = render(tokenizer, form.template, chat, return_dict=True, return_assistant_tokens_mask=True)
        if row is None:
            continue
        answers = [message["content"] for message in chat if message["role"] == "assistant"]
        before = form.end if form.end_before is None else form.end_before
        ends = [before] * (len(answers) - 1) + [form.end]
        expected = [form.start + form.words(text) + end for text, end in zip(answers, ends, strict=True)]
        assert trained_spans(tokenizer, row) == expected
        last = max(index for index, is_trained in enumerate(row["assistant_masks"]) if is_trained)
        stops = BY_NAME[form.family].stop_tokens
        assert tokenizer.convert_ids_to_tokens(row["input_ids"][last]) in stops, "it ends with a stop token"


@FORM
def test_every_prompt_is_the_start_of_its_row_or_a_known_break(form: Form) -> None:
    tokenizer = build_tokenizer(form)
    for chat in CHATS:
        row = render(tokenizer, form.template, chat, return_dict=True, return_assistant_tokens_mask=True)
        if row is None:
            continue
        for _, messages in prompts(chat):
            prompt = render(tokenizer, form.template, messages, return_dict=True, add_generation_prompt=True)[
                "input_ids"
            ]
            is_start = row["input_ids"][: len(prompt)] == prompt
            assert is_start != form.breaks(chat)
            if is_start:
                assert row["assistant_masks"][len(prompt) - 1 : len(prompt) + 1] == [0, 1]


@FORM
def test_a_base_with_the_published_text_gets_this_form(form: Form) -> None:
    from tunefleet.model.v1.base_pb2 import BaseFacts
    from tunefleet_core.catalog import choose_template

    if not form.published:
        pytest.skip("there is no published text")
    if not form.compares_prompts:
        pytest.skip("the text at hand is that of another form")
    chosen = choose_template(BaseFacts(chat_template=published_text(form)), BY_NAME[form.family])
    assert chosen.template.text == form.template
    assert chosen.must_match == published_text(form)


@FORM
def test_a_base_with_the_published_text_is_not_refused_at_submit(form: Form) -> None:
    pytest.importorskip("tunefleet_trl", reason="the check at submit is the backend's")
    from tunefleet.job.v1.resolved_pb2 import ChatTemplate
    from tunefleet_core.rendering import Renderer, template_difference

    if not form.published:
        pytest.skip("there is no published text")
    ours = ChatTemplate(text=form.template, frozen_time_seconds=1_700_000_000)
    difference = template_difference(Renderer(build_tokenizer(form), ours), published_text(form))
    assert bool(difference) is not form.compares_prompts, difference
