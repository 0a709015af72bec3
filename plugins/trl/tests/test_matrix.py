"""The cells of the matrix that this backend trains, run for real on a tiny model of each family.

With TUNEFLEET_RECORD_PROOF set, what passed is written to the file that the matrix reads:
a cell is proven by the test named there and by nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl_lab as lab
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tunefleet.job.v1.resolved_pb2 import CompanionModel, ResolvedData, ResolvedSpec
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.catalog import (
    Family,
    FamilyRegistry,
    choose_template,
    read_base,
    select_target_modules,
    select_target_parameters,
)
from tunefleet_core.catalog.matrix import proofs, record
from tunefleet_core.data import file_digest
from tunefleet_families.plugin import FAMILIES
from tunefleet_trl.heads import WITHOUT_HEAD, has_head
from tunefleet_trl.methods import METHODS
from tunefleet_trl.quantising import FORMATS
from tunefleet_trl.rank import TrlRank

sys.path.append(str(Path(__file__).resolve().parents[2] / "families" / "tests"))
import family_lab  # the tiny models of the families

QUICK = ("qwen3-lora", "llama-kto")
EXPERT_TYPES = (
    "mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_5_moe_text", "llama4_text", "deepseek_v4",
)  # fmt: skip
TYPES = list(family_lab.MODELS)
ONE_EACH = [
    next((name for name in family.model_types if name.endswith("_text")), family.model_types[0])
    for family in FAMILIES
]
"""A type of each family, the language model alone where there is one."""


def _family(model_type: str) -> Family:
    return FamilyRegistry(FAMILIES).for_model_type(model_type)


CELLS = [
    *((name, "lora", "") for name in TYPES),
    *((name, "lora", "nf4") for name in TYPES),
    *((name, "lora", form) for name in ONE_EACH for form in FORMATS if form != "nf4"),
    *(("qwen3", "dora", form) for form in FORMATS),
    *((name, "full", "") for name in TYPES),
    *((name, adaptation, "") for name in TYPES for adaptation in ("rslora", "dora")),
    *((name, "expert_lora", "") for name in EXPERT_TYPES),
    *((name, "prompt_tuning", "") for name in TYPES if not _family(name).reads_ids),
]
"""Model type, adaptation and quantisation of what is trained by supervised fine-tuning."""
METHOD_CELLS = [
    (name, method)
    for name in ONE_EACH
    for method in METHODS
    if method != "reward" or name not in WITHOUT_HEAD
]
"""Model type and method of what is trained with an adapter by another method."""
FILE = f"plugins/trl/tests/{Path(__file__).name}"


def _cases(cells: Sequence[tuple[str, ...]]) -> list[Any]:
    ids = ["-".join(filter(None, cell)) for cell in cells]
    return [
        pytest.param(*cell, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for cell, name in zip(cells, ids, strict=True)
    ]


class _Bases(dict[str, Path]):
    """Tiny bases by model type, made when they are asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._folders = folders

    def __missing__(self, model_type: str) -> Path:
        self[model_type] = _base(model_type, self._folders.mktemp(model_type))
        return self[model_type]


@pytest.fixture(scope="module")
def bases(warm: None, tmp_path_factory: pytest.TempPathFactory) -> _Bases:
    """One base per model type, for all of its cells: they only read it."""
    return _Bases(tmp_path_factory)


@pytest.mark.parametrize(("model_type", "adaptation", "quantization"), _cases(CELLS))
def test_two_steps_are_trained(
    bases: _Bases,
    model_type: str,
    adaptation: str,
    quantization: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    base = bases[model_type]
    rows = lab.colours(tmp_path / "train.jsonl")
    output = _trained(base, _spec(adaptation, quantization), rows, tmp_path / "work")
    if adaptation == "full":
        assert (output / "config.json").is_file()
    elif adaptation == "prompt_tuning":
        (learned,) = load_file(output / "adapter_model.safetensors").values()
        assert _distance_to_vocabulary(base, learned) > 0
    else:
        config = json.loads((output / "adapter_config.json").read_text())
        assert (config["use_dora"], config["use_rslora"]) == (adaptation == "dora", adaptation == "rslora")
        assert bool(config["target_parameters"]) is (adaptation == "expert_lora")
        assert _has_moved(output)
    lab.record_training(request, "sft", adaptation, form=quantization, model_type=model_type)
    record("architectures", model_type, json.loads((base / "config.json").read_text())["architectures"][0])


@pytest.mark.parametrize(("model_type", "method"), _cases(METHOD_CELLS))
def test_two_steps_are_trained_by_a_method(
    bases: _Bases, model_type: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    spec = _spec("lora", "")
    options = getattr(spec.train.method, method)
    options.SetInParent()
    if method in ("grpo", "rloo"):
        options.num_generations, options.max_completion_length, options.beta = 4, 4, 0.01
        options.rewards.add(name="regex").options["pattern"] = "[a-m]"
    teachers: list[CompanionModel] = []
    if method == "distill":
        options.on_policy_share = 0.5
        options.max_completion_length = 4
        options.teacher.model.model = "another"
        teacher = _base(model_type, tmp_path / "teacher", seed=1)
        teachers.append(CompanionModel(field="teacher", base=read_base(teacher)))
    rows = lab.write_rows(tmp_path / "train.jsonl", _judged(method))
    assert _has_moved(_trained(bases[model_type], spec, rows, tmp_path / "work", companions=teachers))
    lab.record_training(request, method, "lora", model_type=model_type)


def test_the_types_that_are_said_to_have_no_head_are_those_of_the_library() -> None:
    known = {name for family in FAMILIES for name in family.model_types}
    assert {name for name in known if not has_head(BaseFacts(model_type=name))} == set(WITHOUT_HEAD)


def test_what_is_written_as_proven_is_what_runs_here() -> None:
    trained = proofs().trained
    supervised = {f"trl/sft/{adaptation}/{form}/{name}" for name, adaptation, form in CELLS}
    cells = supervised | {f"trl/{method}/lora//{name}" for name, method in METHOD_CELLS}
    assert cells <= set(trained), "TUNEFLEET_RECORD_PROOF=1 writes what passed"
    written = {key: test for key, test in trained.items() if test.startswith(f"{FILE}::")}
    assert set(written) <= cells
    cases = {case.id for found in (CELLS, METHOD_CELLS) for case in _cases(found)}
    assert {test.partition("[")[2].removesuffix("]") for test in written.values()} <= cases


def _trained(
    base: Path, spec: JobSpec, rows: Path, folder: Path, *, companions: Sequence[CompanionModel] = ()
) -> Path:
    """Train a job and return what it wrote."""
    resolved = _resolved(base, spec, rows)
    resolved.companions.extend(companions)
    context = lab.MemoryContext(lab.order(resolved, folder))
    TrlRank().run(context)
    assert len([metrics for metrics in context.told if metrics.HasField("loss")]) == 2
    return context.output


def _has_moved(adapter: Path) -> bool:
    """Return whether training has moved the second factors, which start at zero."""
    weights = load_file(adapter / "adapter_model.safetensors")
    second = [value for name, value in weights.items() if "lora_B" in name]
    return bool(second) and any(value.abs().max() > 0 for value in second)


def _distance_to_vocabulary(base: Path, learned: Any) -> float:
    """Return how far the nearest learned embedding has moved from all that they can have begun with."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=learned.dtype)
    vocabulary = model.get_input_embeddings()(torch.arange(model.get_input_embeddings().num_embeddings))
    return float(torch.cdist(learned, vocabulary.detach()).min())


def _judged(method: str) -> list[dict[str, Any]]:
    """Return rows as a method takes them: answers to choose between, to mark, or to be scored."""
    if method in ("grpo", "rloo"):
        return [{"prompt": question} for question, _ in lab.PAIRS]
    if method == "distill":
        return [{"prompt": question, "completion": word} for question, word in lab.PAIRS]
    if method == "kto":
        said = [(question, answer) for question, word in lab.PAIRS for answer in (word, "nein")]
        return [{"prompt": word, "completion": text, "label": text != "nein"} for word, text in said]
    return [{"prompt": question, "chosen": word, "rejected": "nein"} for question, word in lab.PAIRS]


def _base(model_type: str, folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    family = _family(model_type)
    family_lab.MODELS[model_type]().save_pretrained(folder)
    tokens = [*family_lab.special_tokens(family.chat_template), *family.stop_tokens]
    family_lab.build_tokenizer(tokens, bos="<bos-of-test>", eos=family.stop_tokens[0]).save_pretrained(folder)
    return folder


def _spec(adaptation: str, quantization: str) -> JobSpec:
    plain = adaptation in ("expert_lora", "lora", "prompt_tuning")
    spec = lab.adapted_spec("lora" if plain else adaptation, steps=2, rank=4, dropout=0.0)
    spec.train.quantization = quantization
    if adaptation == "prompt_tuning":
        spec.train.adapter.prompt_tuning.num_virtual_tokens = 4
    if adaptation == "expert_lora":
        spec.train.adapter.lora.experts = True
    spec.train.max_length = 512
    return spec


def _resolved(base: Path, spec: JobSpec, rows: Path) -> ResolvedSpec:
    facts = read_base(base)
    family = _family(facts.model_type)
    is_adapter = spec.train.HasField("adapter")
    experts = spec.train.adapter.lora.experts
    return ResolvedSpec(
        spec=spec,
        base=facts,
        chat_template=choose_template(facts, family, frozen_time_seconds=1_700_000_000).template,
        target_modules=select_target_modules(facts, family, []) if is_adapter else [],
        target_parameters=select_target_parameters(facts, family) if experts else [],
        data=[ResolvedData(role="train", path=str(rows), sha256=file_digest(rows), weight=1.0)],
    )
