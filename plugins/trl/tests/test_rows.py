"""Which rows are trained, and how a wrong one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl_lab as lab

from tunefleet.backend.v1.inspect_pb2 import AuditFile, AuditOrder
from tunefleet_core.data import file_digest, read_rows
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rendering import (
    Renderer,
    load_tokenizer,
    render_rows,
    renderer_of,
    rows_of_file,
    training_rows,
)
from tunefleet_trl.rank import TrlRank

GOOD = lab.chat("red", "rot")


def _context(base: Path, folder: Path, rows: list[Any], **train: Any) -> lab.MemoryContext:
    data = lab.write_rows(folder / "train.jsonl", rows)
    spec = lab.train_spec(steps=1)
    for name, value in train.items():
        setattr(spec.train, name, value)
    return lab.MemoryContext(
        lab.order(lab.resolved(base, data=[("train", data)], spec=spec), folder / "work")
    )


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, r"messages\[0\]\.content"),
        ({"messages": [{"role": "usr", "content": "x"}]}, r"messages\[0\]\.role"),
        ({"text": "x"}, "messages"),
        ("{", "is not JSON"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_field(
    base: Path, tmp_path: Path, rank: TrlRank, wrong: object, field: str
) -> None:
    context = _context(base, tmp_path, [GOOD, GOOD, wrong])
    with pytest.raises(TunefleetError, match=rf"train\.jsonl:3: {field}") as caught:
        rank.run(context)
    assert caught.value.reason is Reason.DATA_INVALID


def test_rows_beyond_the_length_are_dropped_with_a_notice(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    context = _context(base, tmp_path, [GOOD, lab.chat("x" * 300, "y"), GOOD])
    rank.run(context)
    (notice,) = context.notices
    assert "1 of 3 rows of 'train.jsonl' are longer than 256 tokens" in notice
    assert "line 2" in notice


@pytest.mark.parametrize("policy", ["error", ""])
def test_rows_beyond_the_length_are_refused_by_policy_or_if_they_are_many(
    base: Path, tmp_path: Path, rank: TrlRank, policy: str
) -> None:
    context = _context(base, tmp_path, [GOOD, lab.chat("x" * 300, "y"), GOOD], over_long=policy)
    with pytest.raises(TunefleetError, match="first on line 2") as caught:
        rank.run(context)
    assert caught.value.reason is Reason.DATA_INVALID


def test_a_file_that_changed_since_the_submit_is_refused(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    context = _context(base, tmp_path, [GOOD])
    lab.write_rows(tmp_path / "train.jsonl", [GOOD, GOOD])
    with pytest.raises(TunefleetError, match="changed after the job was submitted"):
        rank.run(context)


def test_a_run_without_a_trained_token_is_refused(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    context = _context(base, tmp_path, [GOOD])
    template = context.order.resolved_spec.chat_template
    for marker in ("{%- generation %}", "{%- endgeneration %}"):
        assert marker in template.text
        template.text = template.text.replace(marker, "")
    with pytest.raises(TunefleetError, match="No token of the training rows carries loss") as caught:
        rank.run(context)
    assert caught.value.reason is Reason.NO_TRAINED_TOKEN


def test_loss_on_all_trains_every_token(base: Path, tmp_path: Path, rank: TrlRank) -> None:
    losses = {}
    for loss_on in ("assistant", "all"):
        (tmp_path / loss_on).mkdir()
        context = _context(base, tmp_path / loss_on, [GOOD], loss_on=loss_on)
        rank.run(context)
        losses[loss_on] = context.told[0].loss
    assert losses["assistant"] != losses["all"]


def test_weights_repeat_rows(base: Path, tmp_path: Path) -> None:
    from tunefleet_core.rendering import Renderer, load_tokenizer, training_rows

    context = _context(base, tmp_path, [lab.chat(str(number), "x") for number in range(10)])
    spec = context.order.resolved_spec
    spec.data[0].weight = 2.3
    rows = training_rows(context, Renderer(load_tokenizer(spec.base), spec.chat_template)).train
    assert len(rows) == 23
    assert rows == training_rows(context, Renderer(load_tokenizer(spec.base), spec.chat_template)).train


def test_rows_rendered_many_at_a_time_are_those_rendered_alone(base: Path, tmp_path: Path) -> None:
    words = [lab.chat("x" * (index % 7), f"{index}") for index in range(130)]
    data = lab.write_rows(tmp_path / "train.jsonl", words)
    resolved = lab.resolved(base, data=[("train", data)], spec=lab.train_spec())
    for loss_on in ("assistant", "all"):
        renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template, loss_on=loss_on)
        rows = list(read_rows(str(data)))
        together = list(render_rows(str(data), rows, renderer))
        assert together == [(row, renderer.row(row.as_chat())) for row in rows]


def test_the_row_that_a_template_refuses_is_named_among_many(base: Path, tmp_path: Path) -> None:
    wrong = {"messages": [{"role": "user", "content": "STOP"}, {"role": "assistant", "content": "x"}]}
    data = lab.write_rows(tmp_path / "train.jsonl", [*[GOOD] * 100, wrong, *[GOOD] * 20])
    resolved = lab.resolved(base, data=[("train", data)], spec=lab.train_spec())
    refuse = "{% if messages[0].content == 'STOP' %}{{ raise_exception('no stop') }}{% endif %}"
    resolved.chat_template.text = refuse + resolved.chat_template.text
    renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template)
    with pytest.raises(TunefleetError, match=r"train\.jsonl:101: messages: .*no stop"):
        list(render_rows(str(data), read_rows(str(data)), renderer))


def test_the_last_character_of_an_answer_is_trained_in_full(base: Path) -> None:
    """One of several tokens is marked by its first token alone, unless an end of turn follows it."""
    resolved = lab.resolved(base, data=[], spec=lab.train_spec())
    resolved.chat_template.text = (
        "{% for message in messages %}{{ message.role }}:{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %} {% endfor %}"
    )
    renderer = Renderer(load_tokenizer(resolved.base), resolved.chat_template)
    for answer in ("3²", "東京", "🙂", "plain"):
        (row,) = renderer.rows([lab.chat("q", answer)["messages"]])
        trained = [token for token, is_trained in zip(row.input_ids, row.mask, strict=True) if is_trained]
        assert renderer.text(trained) == answer


def test_the_process_that_audited_rows_trains_on_those_very_ones(
    base: Path, tmp_path: Path, rank: TrlRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _context(base, tmp_path, [GOOD, lab.chat("blue", "blau")])
    resolved = context.order.resolved_spec
    file = AuditFile(path=resolved.data[0].path)
    order = AuditOrder(
        base=resolved.base,
        chat_template=resolved.chat_template,
        loss_on="assistant",
        method="sft",
        files=[file],
    )
    found = rank.audit(order)
    assert found.files[0].sha256 == resolved.data[0].sha256

    rendered: list[int] = []
    whole = Renderer.rows
    monkeypatch.setattr(Renderer, "rows", lambda *given: rendered.append(len(given[1])) or whole(*given))
    renderer = renderer_of(resolved.base, resolved.chat_template, loss_on="assistant")
    kept = training_rows(context, renderer)
    assert rendered == []

    fresh = Renderer(load_tokenizer(resolved.base), resolved.chat_template, loss_on="assistant")
    assert training_rows(context, fresh) == kept
    assert rendered == [2]


def test_rows_are_known_again_by_their_bytes_and_a_renderer_by_its_template(
    base: Path, tmp_path: Path
) -> None:
    context = _context(base, tmp_path, [GOOD])
    resolved = context.order.resolved_spec
    path = resolved.data[0].path
    renderer = renderer_of(resolved.base, resolved.chat_template, loss_on="assistant")
    (one,) = rows_of_file("sft", path, renderer, sha256=file_digest(path))
    lab.write_rows(Path(path), [lab.chat("blue", "blau")])
    (other,) = rows_of_file("sft", path, renderer, sha256=file_digest(path))
    assert one.answers[0].rendered != other.answers[0].rendered

    resolved.chat_template.frozen_time_seconds += 1
    assert renderer_of(resolved.base, resolved.chat_template, loss_on="assistant") is not renderer
