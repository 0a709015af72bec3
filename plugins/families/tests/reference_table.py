"""Write docs/reference/families.md from the families and from what was proven.

    python plugins/families/tests/reference_table.py

`proven.json` beside this file is written by test_models.py with TUNEFLEET_RECORD_PROOF set:
model type to the version of transformers with which its tiny model passed. What backends and engines
ran is read from the proofs of the matrix, what templates are held to from `chat_forms.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from chat_forms import FORMS  # stands beside this file

from tunefleet_core.catalog.engines import engine_registries
from tunefleet_core.catalog.family import EngineParsers, Family
from tunefleet_core.catalog.matrix import ADAPTATIONS, METHODS, proofs
from tunefleet_core.spec import QUANTIZATIONS
from tunefleet_families.plugin import FAMILIES

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "families.md"
PROVEN = Path(__file__).resolve().parent / "proven.json"

_HEAD = """# Model families

Made by `plugins/families/tests/reference_table.py` from the families and the tests that passed.

A family is recognised by the `model_type` in `config.json`. What tests ran, on a tiny random model of the
real class of each type:

- *model*: the version of transformers with which it was saved, recognised, given an adapter on every target
  of `all-linear`, trained one step (nothing but the adapter changed), merged and read again with the same
  logits. "not proven" means that nobody ran it.
- *trl trains*: the ways of adapting, the quantisations of the base, and the methods with LoRA, that the trl
  backend ran two steps of. The types with vision of a family are run by supervised fine-tuning alone.
- *embedded serves*: what the embedded engine answered as the library does.
- *forms*: of how many of the family's chat forms the ids are held to the published text; the others have none
  that may be kept here, or none that was published as a template. Masks and prompts are held in all.

*Parsers* are what serving engines call the parsers of tool calls and thoughts: names in the engines' own
registries, as read from vLLM {vllm} and SGLang {sglang}. *Sharded by* are the classes of decoder layers,
as every layer of the tiny model has.

| family | model type | model | trl trains | on | by, beside sft | embedded serves | forms |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    proven: dict[str, str] = json.loads(PROVEN.read_text())
    rows = [
        f"| `{family.name}` | `{model_type}` | {proven.get(model_type, 'not proven')} | "
        f"{' | '.join(map(', '.join, _ran(model_type)))} | {_forms(family)} |"
        for family in FAMILIES
        for model_type in family.model_types
    ]
    engines = engine_registries()
    head = _HEAD.format(**{engine: engines[engine].version for engine in ("vllm", "sglang")})
    return "\n".join([head + "\n".join(rows) + "\n", *map(_section, FAMILIES), _named_models(), _MISSING])


def _ran(model_type: str) -> Iterator[Sequence[str]]:
    """Yield adaptations, quantisations and methods that were trained, and adaptations that were served."""
    trained, served = proofs().trained, proofs().served
    formats = (*QUANTIZATIONS, "mxfp4")
    yield [name for name in ADAPTATIONS if f"trl/sft/{name}//{model_type}" in trained] or ["none"]
    yield [name for name in formats if f"trl/sft/lora/{name}/{model_type}" in trained] or ["none"]
    yield [name for name in METHODS if name != "sft" and f"trl/{name}/lora//{model_type}" in trained] or [
        "none"
    ]
    yield [name for name in ADAPTATIONS if f"embedded/{name}/{model_type}" in served] or ["none"]


def _forms(family: Family) -> str:
    forms = {form.variant: form for form in FORMS if form.family == family.name}
    return f"{sum(bool(form.published) for form in forms.values())} of {len(forms)}"


def _named_models() -> str:
    by_type = {model_type: f"`{family.name}`" for family in FAMILIES for model_type in family.model_types}
    refused = {
        model_type: f"refused: unsupported by {why}"
        for family in FAMILIES
        for model_type, why in family.unsupported_types.items()
    }
    named = {model_type for _, model_types in PUBLISHED for model_type in model_types}
    further = [("further types", (model_type,)) for model_type in refused if model_type not in named]
    rows: list[str] = []
    for name, model_types in (*PUBLISHED, *further):
        families = dict.fromkeys((by_type | refused)[model_type] for model_type in model_types)
        rows.append(f"| {name} | {_code(model_types)} | {', '.join(families)} |")
    return _NAMES + "\n".join(rows) + "\n"


_THINKS: Mapping[str, str] = {
    "none": "no",
    "optional": "if asked to (`enable_thinking`)",
    "always": "before every answer",
}
_NAMES = """## Models by name

What `config.json` of a published model says, and so which family it is. *Refused* bases are refused at submit
by that name, with the reason.

| model | `model_type` | family |
|---|---|---|
"""
PUBLISHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Llama 3, 3.1, 3.2 (text), 3.3", ("llama",)),
    ("Llama 4", ("llama4", "llama4_text")),
    ("Mistral 7B, Small 2409 and 3 (2501), Large 2407 and 2411", ("mistral",)),
    ("Mistral Small 3.1 and 3.2 (with vision)", ("mistral3",)),
    ("Mixtral 8x7B, 8x22B", ("mixtral",)),
    ("Qwen2.5", ("qwen2",)),
    ("Qwen3", ("qwen3",)),
    ("Qwen3 with experts, Qwen3-Coder", ("qwen3_moe",)),
    ("Qwen3.5 and 3.6, dense or with experts", ("qwen3_5", "qwen3_5_moe")),
    ("Gemma 2", ("gemma2",)),
    ("Gemma 3", ("gemma3", "gemma3_text")),
    ("Gemma 4", ("gemma4", "gemma4_text", "gemma4_unified")),
    ("Phi-4, Phi-4-mini, Phi-3.5", ("phi3",)),
    ("DeepSeek-V3, R1", ("deepseek_v3",)),
    ("DeepSeek-V4", ("deepseek_v4",)),
    ("Command-R", ("cohere",)),
    ("Command R7B, Command A", ("cohere2",)),
    ("GPT-OSS", ("gpt_oss",)),
)
"""Models as people call them, and what their config.json says."""

_MISSING = """## Not here

Unknown to every family, and refused with the nearest known type: Llama 3.2 with vision (`mllama`),
Qwen3-Next and Qwen3-Coder-Next (`qwen3_next`), DeepSeek-V3.2 (`deepseek_v32`), Gemma 3n (`gemma3n`), Phi-4
with vision and sound (`phi4_multimodal`). transformers 5.23 has classes for them; nobody tried them here.
"""


def _section(family: Family) -> str:
    lines = [
        f"## {family.name}",
        "",
        f"- **Licence:** {family.licence}",
        f"- **Targets of `all-linear`:** {_code(family.target_suffixes)}",
        *(
            [f"- **Routed experts, by parameter name only:** {_code(family.expert_parameters)}"]
            if family.expert_parameters
            else []
        ),
        f"- **Stop tokens:** {_code(family.stop_tokens)}",
        f"- **Sharded by:** {_code(family.layer_classes)}",
        *([f"- **Frozen beside it:** {_code(family.frozen_parts)}"] if family.frozen_parts else []),
        f"- **Thinks:** {_THINKS[family.thinking]}",
        f"- **Tool calls:** {_text(family.tool_format)}",
        *(f"- **Parsers{name}:** {parsers}" for name, parsers in _parsers(family)),
        f"- **Chat template:** {family.template_origin}.",
        *(f"- **Chat template, form `{variant.name}`:** {variant.origin}." for variant in family.variants),
        "- **Traps:**",
        *(f"  - {_text(trap)}" for trap in family.traps),
    ]
    return "\n".join(lines) + "\n"


def _parsers(family: Family) -> Iterator[tuple[str, str]]:
    """Yield what each chat form is parsed by, the family's own first."""
    forms = [("", family.parsers), *((form.name, form.parsers) for form in family.variants)]
    for name, engines in forms:
        if engines is not None:  # None: as the family's
            said = [f"{engine} {_named(parsers)}" for engine, parsers in engines.items()]
            yield f", form `{name}`" if name else "", "; ".join(said) or "none"


def _named(parsers: EngineParsers) -> str:
    named = (("tools", parsers.tool), ("thoughts", parsers.reasoning))
    return ", ".join(f"{what} `{name}`" for what, name in named if name)


def _text(sentence: str) -> str:
    """Return a sentence whose tokens a page shows, rather than take them for HTML."""
    return sentence.replace("<", "\\<")


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page())
