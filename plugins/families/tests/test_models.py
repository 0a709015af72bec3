"""Prove each family on a tiny random model of its real class, with the installed libraries.

A model is saved as it is published, read as a job reads it, trained one step, merged and
loaded again. With TUNEFLEET_RECORD_PROOF set, what passed is written to proven.json, from
which the reference table is made.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tunefleet_core.catalog import (
    FamilyRegistry,
    choose_template,
    expert_adapter_parameters,
    read_base,
    select_target_modules,
    select_target_parameters,
)
from tunefleet_core.catalog.family import Family
from tunefleet_core.errors import TunefleetError
from tunefleet_families.plugin import FAMILIES

pytest.importorskip("peft", reason="training needs the trl environment")
import family_lab as lab  # found through conftest.py

pytestmark = [
    pytest.mark.backend,
    # Libraries warn each other about names they are about to change.
    pytest.mark.filterwarnings("default"),
]

PROVEN = Path(__file__).resolve().parent / "proven.json"
QUICK = ("qwen2", "mixtral", "gemma3")
"""One dense, one with routed experts, one with a vision tower; the rest is left to the slow set."""
EXPERT_TYPES = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "deepseek_v4", "llama4", "qwen3_5_moe")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in lab.MODELS]


@pytest.mark.parametrize("model_type", CASES)
def test_a_tiny_model_is_recognised_trained_merged_and_read_again(model_type: str, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    family = FamilyRegistry(FAMILIES).for_model_type(model_type)
    base = tmp_path / "base"
    published = lab.MODELS[model_type]()
    published.save_pretrained(base)
    tokenizer = lab.build_tokenizer(
        [*lab.special_tokens(family.chat_template), *family.stop_tokens],
        bos="<bos-of-test>",
        eos=family.stop_tokens[0],
    )
    tokenizer.save_pretrained(base)
    targets = _targets_of(base, family, model_type)
    _stop_ids_are_right(base, family, tokenizer)
    model = _with_adapter(base, targets)
    _layers_and_towers_are_named_rightly(model, published, family, targets)
    ids = torch.randint(3, 250, (2, 12))
    before = _logits(model, ids)
    _one_step_changes_the_adapter_only(model, ids)
    after = _logits(model, ids)
    assert (after - before).abs().max() > 1e-3, "the adapter is felt"
    _merged_and_read_again_it_agrees(model, ids, after, tmp_path / "merged")
    if model_type in EXPERT_TYPES:
        _experts_are_reached_by_parameter_name(base, family, ids)
    _record(model_type)


UNSUPPORTED = [(model_type, family) for family in FAMILIES for model_type in family.unsupported_types]


@pytest.mark.parametrize(("model_type", "family"), UNSUPPORTED, ids=[name for name, _ in UNSUPPORTED])
def test_what_is_called_unsupported_is_not_in_the_installed_library(model_type: str, family: Family) -> None:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    release = ".".join(transformers.__version__.split(".")[:2])
    said = family.unsupported_types[model_type]
    assert model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert (model_type not in transformers.CONFIG_MAPPING) == ("does not know" in said)
    with pytest.raises(TunefleetError, match=f"'{model_type}'.* unsupported by transformers {release}: "):
        FamilyRegistry(FAMILIES).for_model_type(model_type)


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="eager").eval()


def _logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def _targets_of(base: Path, family: Family, model_type: str) -> list[str]:
    facts = read_base(base)
    assert facts.model_type == model_type
    targets = select_target_modules(facts, family, [])
    parts = {part for name in targets for part in name.split(".")}
    assert not parts & {"lm_head", "gate", "router", "experts", "vision_tower", "visual", "vision_model"}
    assert {name.rpartition(".")[2] for name in targets} <= set(family.target_suffixes)
    return targets


def _stop_ids_are_right(base: Path, family: Family, tokenizer: Any) -> None:
    stop_ids = set(choose_template(read_base(base), family).template.stop_token_ids)
    assert {tokenizer.convert_tokens_to_ids(token) for token in family.stop_tokens} <= stop_ids


def _with_adapter(base: Path, targets: list[str]) -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = get_peft_model(
        _load(base), LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    )
    reached = {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert reached == set(targets)
    return model


def _layers_and_towers_are_named_rightly(
    model: Any, published: Any, family: Family, targets: list[str]
) -> None:
    layers = {
        name: type(module).__name__
        for name, module in model.get_base_model().named_modules()
        if type(module).__name__ in family.layer_classes
    }
    depth = published.config.get_text_config().num_hidden_layers
    assert len(layers) == depth, "every decoder layer is of a class of the family, and nothing else is"
    assert all(any(name.startswith(f"{layer}.") for layer in layers) for name in targets)
    senses = {
        name
        for name, module in published.named_modules()
        if re.search("Vision|Siglip|Audio|Multimodal|Projector", type(module).__name__)
    }
    outside = {name for name in senses if not set(name.split(".")) & set(family.frozen_parts)}
    assert not outside, "what sees or hears lies below a frozen part"
    if senses:
        parts = {part for name, _ in published.named_modules() for part in name.split(".")}
        assert set(family.frozen_parts) & parts


def _one_step_changes_the_adapter_only(model: Any, ids: Any) -> None:
    import torch

    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = [value for value in model.parameters() if value.requires_grad]
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    torch.optim.Adam(trained, lr=0.05).step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    # The first factor has no gradient while the second is zero.
    assert {name for name in before if "lora_B" in name} <= changed
    assert all("lora_" in name for name in changed)


def _merged_and_read_again_it_agrees(model: Any, ids: Any, expected: Any, folder: Path) -> None:
    model.merge_and_unload().save_pretrained(folder)
    assert (_logits(_load(folder), ids) - expected).abs().max() < 1e-4


def _experts_are_reached_by_parameter_name(base: Path, family: Family, ids: Any) -> None:
    from peft import LoraConfig, get_peft_model

    plain = _load(base)
    experts = {
        name
        for name, value in plain.named_parameters()
        if value.dim() == 3 and name.endswith(family.expert_parameters)
    }
    assert {
        suffix for suffix in family.expert_parameters if any(name.endswith(suffix) for name in experts)
    } == set(family.expert_parameters)
    facts = read_base(base)
    resolved = select_target_parameters(facts, family)
    assert resolved == sorted(experts), "names from the files are those of the loaded model"
    model = get_peft_model(plain, LoraConfig(r=4, target_modules=[], target_parameters=resolved))
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == expert_adapter_parameters(facts, resolved, 4)
    _one_step_changes_the_adapter_only(model, ids)
    assert sum("lora_B" in name for name, _ in model.named_parameters()) == len(experts)


def _record(model_type: str) -> None:
    if not os.environ.get("TUNEFLEET_RECORD_PROOF"):
        return
    import transformers

    known = json.loads(PROVEN.read_text()) if PROVEN.exists() else {}
    known[model_type] = transformers.__version__
    PROVEN.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
