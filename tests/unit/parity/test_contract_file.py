"""The record beside an adapter survives its file, and a damaged one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import (
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TokensRecord,
    TopLogprobs,
    TrainServeContract,
    read_contract,
    write_contract,
)


def _contract() -> TrainServeContract:
    top = TopLogprobs(token_ids=(4, 2), logprobs=(-0.5, -1.25))
    return TrainServeContract(
        base_digest="b" * 64,
        tokenizer_digest="t" * 64,
        template=TemplateRecord(
            text="{{ 'ß' }}", sha256="c" * 64, stop_token_ids=(7,), frozen_time_seconds=1_700_000_000
        ),
        adapter=AdapterRecord(rank=8, alpha=16.0, effective_scale=2.0, target_modules=("a.q_proj",)),
        precision=PrecisionRecord(dtype="float32", quantization=""),
        tokens=(TokensRecord(messages=({"role": "user", "content": "Grüße"},), prompt_token_ids=(1, 2)),),
        numbers=(NumbersRecord(prompt_token_ids=(1, 2, 3), base=top, tuned=top),),
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_contract(_contract(), tmp_path)
    assert path.name == "contract.json"
    assert read_contract(path) == read_contract(tmp_path) == _contract()


def test_tools_keep_the_order_of_their_keys(tmp_path: Path) -> None:
    arguments = {"z": 1, "a": {"y": [2.5, None, True], "b": "ß"}}
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    tokens = TokensRecord(
        messages=({"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},),
        prompt_token_ids=(1,),
        tools=({"type": "function", "function": {"name": "f", "description": "d"}},),
    )
    write_contract(replace(_contract(), tokens=(tokens,)), tmp_path)
    (read,) = read_contract(tmp_path).tokens
    assert read == tokens
    assert json.dumps([read.messages, read.tools]) == json.dumps([tokens.messages, tokens.tools])


def test_a_record_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = write_contract(_contract(), tmp_path)
    value = json.loads(path.read_text())
    for record in value["tokens"]:
        del record["tools"]
    path.write_text(json.dumps(value | {"version": 1}))
    assert read_contract(path) == replace(_contract(), version=1)


def test_the_file_has_the_published_fields(tmp_path: Path) -> None:
    value = json.loads(write_contract(_contract(), tmp_path).read_text())
    assert set(value) == {
        "version", "base_digest", "tokenizer_digest", "template", "adapter", "precision", "tokens", "numbers",
        "unquantized",
    }  # fmt: skip
    assert set(value["template"]) == {"text", "sha256", "stop_token_ids", "frozen_time_seconds"}
    assert set(value["adapter"]) == {
        "rank", "alpha", "effective_scale", "target_modules", "rslora", "dora", "target_parameters",
        "virtual_tokens",
    }  # fmt: skip
    assert set(value["numbers"][0]["tuned"]) == {"token_ids", "logprobs"}


def test_the_record_of_whole_weights_has_no_adapter(tmp_path: Path) -> None:
    contract = replace(_contract(), adapter=None)
    assert read_contract(write_contract(contract, tmp_path)) == contract


def test_a_record_from_before_rslora_and_dora_is_of_plain_lora(tmp_path: Path) -> None:
    path = write_contract(_contract(), tmp_path)
    value = json.loads(path.read_text())
    del value["adapter"]["rslora"], value["adapter"]["dora"], value["unquantized"]
    del value["adapter"]["target_parameters"]
    path.write_text(json.dumps(value))
    assert read_contract(path) == _contract()


def test_a_newer_record_is_refused_by_version(tmp_path: Path) -> None:
    path = write_contract(_contract(), tmp_path)
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(TunefleetError, match="has version 3") as caught:
        read_contract(path)
    assert caught.value.reason is Reason.CONTRACT_INCOMPATIBLE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rank": 8', '"rank": "8"'),
        ('"alpha": 16.0', '"alpha": true'),
        ('"base_digest"', '"base_digits"'),
        ('"rslora": false', '"rslora": 0'),
        ("-1.25", "NaN"),
        ('"logprobs": [', '"logprobs": [0.0, '),
        ("{", ""),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = write_contract(_contract(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TunefleetError, match="cannot be read") as caught:
        read_contract(path)
    assert caught.value.reason is Reason.NUMBERS_MISMATCH


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match=r"contract\.json.*cannot be read"):
        read_contract(tmp_path)
