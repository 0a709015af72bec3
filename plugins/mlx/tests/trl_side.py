"""What tests need of torch, in a process of its own that has it: python trl_side.py WHAT ARGUMENTS...

bases FOLDER                 the tiny bases of trl's tests; the llama's embedding is its head too
train ORDER                  a run of the trl backend; tells the losses of its steps
adapters BASE FOLDER         adapters of every kind with random weights, and what they answer
answers BASE ADAPTER...      what adapters answer to PROMPT: logits, as JSON
top MODEL PROMPTS            the likeliest next tokens after prompts, as JSON, and their log-probabilities
serve BASE ADAPTER           what the embedded engine says of an adapter's contract
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).resolve().parents[2]
for folder in ("trl/tests", "families"):
    sys.path.insert(0, str(PLUGINS / folder))

PROMPT = [5, 9, 40, 41, 7, 100, 33]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_alpha": 12},
    "rslora": {"lora_alpha": 3, "use_rslora": True},
    "dora": {"lora_alpha": 6, "use_dora": True},
}


def bases(folder: str) -> None:
    import trl_lab

    for model_type in ("qwen3", "llama"):
        tied = model_type == "llama"
        trl_lab.build_base(Path(folder) / model_type, model_type=model_type, tie_word_embeddings=tied)


def train(order: str) -> list[list[float]]:
    import trl_lab

    from tunefleet_trl.rank import TrlRank

    context = trl_lab.MemoryContext(trl_lab.RunOrder.FromString(Path(order).read_bytes()))
    TrlRank().run(context)
    return [[item.loss, item.grad_norm] for item in context.told if item.HasField("loss")]


def top(model: str, prompts: str) -> list[dict[str, float]]:
    import torch

    loaded, found = _base(model), []
    for prompt in json.loads(prompts):
        with torch.inference_mode():
            logits = loaded(input_ids=torch.tensor([prompt])).logits[0, -1].float()
        best = torch.topk(torch.log_softmax(logits, dim=-1), 20)
        found.append(dict(zip(map(str, best.indices.tolist()), best.values.tolist(), strict=True)))
    return found


def adapters(base: str, folder: str) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model

    for kind, further in KINDS.items():
        torch.manual_seed(len(kind))
        config = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False, **further
        )
        model = get_peft_model(_base(base), config)
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.data *= torch.rand_like(parameter) + 0.5
        model.save_pretrained(f"{folder}/{kind}")
    return answers(base, *(f"{folder}/{kind}" for kind in KINDS))


def answers(base: str, *folders: str) -> dict[str, Any]:
    import torch
    from peft import PeftModel

    found = {}
    for folder in folders:
        with torch.inference_mode():
            model = PeftModel.from_pretrained(_base(base), folder).eval()
            found[Path(folder).name] = model(torch.tensor([PROMPT])).logits[0].tolist()
    return found


def serve(base: str, adapter: str) -> dict[str, Any]:
    import asyncio
    import subprocess

    from tunefleet_core.parity import read_contract
    from tunefleet_services.server.contract_check import check_engine
    from tunefleet_services.server.engine_http import EngineHttp

    contract = read_contract(adapter)
    template = Path(adapter) / "chat_template.jinja"
    command = [sys.executable, "-m", "tunefleet_embedded.engine", "--model", base, "--port", "0"]
    command += ["--chat-template", str(template)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        try:
            assert engine.stdout is not None
            ready = engine.stdout.readline()
            assert ready.startswith("READY "), "the engine did not start"
            http = EngineHttp(ready.removeprefix("READY ").strip())
            loading = {"lora_name": "tuned", "lora_path": adapter}
            loaded = asyncio.run(http.post("/v1/load_lora_adapter", loading))
            assert loaded.status == 200, loaded.message
            found = asyncio.run(check_engine(http, "tuned", contract))
        finally:
            engine.terminate()
    result = found.result
    return {
        "tokens": result.tokens,
        "numbers": result.numbers,
        "to_tuned": result.distance_to_tuned,
        "to_base": result.distance_to_base,
    }


def _base(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    print("\n" + json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
