"""Adapters come and go while others stream; a wrong one changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
import reference
from asking import greedy_ids, stream_ids
from conftest import Lab
from engine_process import EngineProcess
from safetensors.torch import load_file, save_file
from tiny_models import make_adapter, make_base

PROMPT = [7, 8, 9, 10]


def test_adapters_load_and_unload_while_others_stream(qwen_lab: Lab, qwen: EngineProcess) -> None:
    expected = {
        model: reference.greedy(qwen_lab.base, qwen_lab.path(model), PROMPT, 300)
        for model in ("base", "a", "b")
    }
    extra = qwen_lab.adapters["c"]

    async def come_and_go(client: openai.AsyncOpenAI) -> int:
        rounds = 0
        for _ in range(4):
            assert (await asyncio.to_thread(qwen.load, "extra", extra)).status == 200
            got = await stream_ids(client, "extra", PROMPT, 6)
            assert got == reference.greedy(qwen_lab.base, extra, PROMPT, 6)
            assert (await asyncio.to_thread(qwen.unload, "extra")).status == 200
            rounds += 1
        return rounds

    async def everyone() -> list[Any]:
        async with qwen.async_client() as client:
            streams = (stream_ids(client, model, PROMPT, 300) for model in expected)
            return await asyncio.gather(*streams, come_and_go(client))

    *streams, rounds = asyncio.run(everyone())
    assert rounds == 4
    assert streams == list(expected.values())


def test_an_answer_being_written_survives_the_unload_of_its_adapter(
    qwen_lab: Lab, qwen: EngineProcess
) -> None:
    assert qwen.load("leaving", qwen_lab.adapters["c"]).status == 200

    async def scenario() -> list[int]:
        async with qwen.async_client() as client:
            running = asyncio.create_task(stream_ids(client, "leaving", PROMPT, 300))
            await asyncio.to_thread(qwen.wait_until, "requests_running", 1)
            assert (await asyncio.to_thread(qwen.unload, "leaving")).status == 200
            with pytest.raises(openai.NotFoundError):
                await stream_ids(client, "leaving", PROMPT, 2)
            # The name is free at once, for another adapter too.
            assert (await asyncio.to_thread(qwen.load, "leaving", qwen_lab.adapters["b"])).status == 200
            other = await stream_ids(client, "leaving", PROMPT, 8)
            assert other == reference.greedy(qwen_lab.base, qwen_lab.adapters["b"], PROMPT, 8)
            return await running

    try:
        assert asyncio.run(scenario()) == reference.greedy(qwen_lab.base, qwen_lab.adapters["c"], PROMPT, 300)
    finally:
        qwen.unload("leaving")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_an_unknown_model_is_a_404_and_never_the_base(qwen: EngineProcess, path: str) -> None:
    body = (
        {"model": "nobody", "prompt": "x"}
        if "chat" not in path
        else {
            "model": "nobody",
            "messages": [{"role": "user", "content": "x"}],
        }
    )
    reply = qwen.post(path, body)
    assert reply.status == 404
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "nobody" in error["message"]
    with pytest.raises(openai.NotFoundError):
        qwen.client().completions.create(model="nobody", prompt="x")


def test_loading_the_same_again_changes_nothing_and_other_settings_are_refused(
    qwen_lab: Lab, qwen: EngineProcess
) -> None:
    loaded = qwen.metrics()["adapters_loaded"]
    assert qwen.load("a", qwen_lab.adapters["a"]).status == 200
    assert qwen.metrics()["adapters_loaded"] == loaded
    other = qwen.load("a", qwen_lab.adapters["b"])
    assert other.status == 400
    assert "unload it first" in other.json()["error"]["message"]
    assert qwen.load("base", qwen_lab.adapters["b"]).status == 400
    assert qwen.unload("base").status == 404
    assert qwen.unload("never").status == 404


def _change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _change_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def _poison(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def _rename(tensors: dict[str, Any]) -> None:
    name = next(iter(tensors))
    tensors[name.replace("layers.0", "layers.99")] = tensors.pop(name)


def _drop(tensors: dict[str, Any]) -> None:
    tensors.pop(next(iter(tensors)))


_BREAKS = {
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
    "config is no json": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "weights cut short": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(
            (f / "adapter_model.safetensors").read_bytes()[:500]
        ),
        "cannot be read",
    ),
    "not finite": (lambda f: _change_tensors(f, _poison), "not finite"),
    "unknown module": (lambda f: _change_tensors(f, _rename), "no module model.layers.99"),
    "tensor missing": (lambda f: _change_tensors(f, _drop), "lacks the tensor"),
    "dora": (lambda f: _change_config(f, use_dora=True), "DoRA"),
    "wrong rank": (lambda f: _change_config(f, r=4), "refused"),
    "pissa": (lambda f: _change_config(f, init_lora_weights="pissa"), "pissa"),
    "full modules": (lambda f: _change_config(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "other method": (lambda f: _change_config(f, peft_type="IA3"), "IA3"),
}


@pytest.mark.parametrize("case", sorted(_BREAKS))
def test_a_broken_adapter_is_refused_and_changes_nothing(
    qwen_lab: Lab, qwen: EngineProcess, tmp_path: Path, case: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(qwen_lab.adapters["a"], folder)
    damage, word = _BREAKS[case]
    damage(folder)
    reply = qwen.load("broken", folder)
    assert reply.status == 400
    assert word in reply.json()["error"]["message"]
    assert "broken" not in {model.id for model in qwen.client().models.list()}
    for model in ("base", "a", "b"):
        expected = reference.greedy(qwen_lab.base, qwen_lab.path(model), PROMPT, 6)
        assert greedy_ids(qwen.client(), model, PROMPT, 6) == expected


def test_an_adapter_of_another_base_is_refused(qwen: EngineProcess, llama_lab: Lab, tmp_path: Path) -> None:
    wider = make_base(tmp_path / "wider", "qwen3", hidden=96)
    reply = qwen.load("wider", make_adapter(wider, tmp_path / "adapter", seed=1))
    assert reply.status == 400
    assert "does not fit" in reply.json()["error"]["message"]
    deeper = make_base(tmp_path / "deeper", "qwen3", layers=3)
    reply = qwen.load("deeper", make_adapter(deeper, tmp_path / "deep_adapter", seed=1))
    assert reply.status == 400
    assert "no module model.layers.2" in reply.json()["error"]["message"]
    base_folder = qwen.load("base folder", llama_lab.base)
    assert base_folder.status == 400
    assert "base model" in base_folder.json()["error"]["message"]


def test_an_adapter_on_embeddings_goes_through_pefts_own_path(
    qwen_lab: Lab, qwen: EngineProcess, tmp_path: Path
) -> None:
    folder = make_adapter(
        qwen_lab.base, tmp_path / "embedding", seed=9, target_modules=["embed_tokens", "q_proj"]
    )
    assert qwen.load("embedding", folder).status == 200
    try:
        models = ("base", "embedding", "a", "embedding", "c")

        async def everyone() -> list[list[int]]:
            async with qwen.async_client() as client:
                return await asyncio.gather(*(stream_ids(client, model, PROMPT, 40) for model in models))

        paths = {**qwen_lab.adapters, "embedding": folder}
        expected = [reference.greedy(qwen_lab.base, paths.get(model), PROMPT, 40) for model in models]
        assert asyncio.run(everyone()) == expected
    finally:
        assert qwen.unload("embedding").status == 200
    assert greedy_ids(qwen.client(), "a", PROMPT, 12) == reference.greedy(
        qwen_lab.base, qwen_lab.path("a"), PROMPT, 12
    )


def test_an_adapter_brings_its_own_template_and_stop_ids(qwen_lab: Lab, qwen: EngineProcess) -> None:
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    stop_id = reference.greedy(qwen_lab.base, qwen_lab.path("b"), PROMPT, 4)[3]
    assert (
        qwen.load("own", qwen_lab.adapters["b"], chat_template=template, stop_token_ids=[stop_id]).status
        == 200
    )
    try:
        messages = [{"role": "user", "content": "hello"}]
        ids = qwen.post("/tokenize", {"model": "own", "messages": messages}).json()["tokens"]
        assert ids == reference.tokenizer(qwen_lab.base)("[hello]").input_ids
        other = qwen.post("/tokenize", {"model": "b", "messages": messages}).json()["tokens"]
        rendered = reference.tokenizer(qwen_lab.base).apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert other == rendered
        answer = qwen.client().completions.create(model="own", prompt=PROMPT, max_tokens=20, temperature=0)
        first = reference.greedy(qwen_lab.base, qwen_lab.path("b"), PROMPT, 20).index(stop_id)
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", first + 1)
        bad = qwen.load("bad", qwen_lab.adapters["b"], chat_template="{% for %}")
        assert bad.status == 400
        assert bad.json()["error"]["param"] == "chat_template"
    finally:
        qwen.unload("own")
