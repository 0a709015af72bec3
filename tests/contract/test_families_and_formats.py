"""The page about families and formats: its files install, and a base of theirs is recognised by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_plugins import TUTORIAL, extract

PAGE = TUTORIAL.with_name("families-and-formats.md")
LAYER = "model.layers.0"
TENSORS = {
    "model.embed_tokens.weight": ("F16", [16, 8]),
    f"{LAYER}.self_attn.q_proj.packed": ("U8", [8, 2]),
    f"{LAYER}.self_attn.q_proj.scale": ("F16", [8]),
    f"{LAYER}.mlp.up_proj.packed": ("U8", [32, 2]),
    f"{LAYER}.mlp.up_proj.scale": ("F16", [32]),
    f"{LAYER}.mlp.gate.weight": ("F16", [4, 8]),
}
RESOLVE = """
import json, sys
from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.catalog import FamilyRegistry, FormatRegistry, read_base
from tunefleet_core.plugins import load_plugins
from tunefleet_core.resolve import draft_train

plugins = load_plugins()
facts = read_base(sys.argv[1], formats=FormatRegistry(plugins.formats()))
family = FamilyRegistry(plugins.families()).for_model_type(facts.model_type)
spec = JobSpec()
spec.train.adapter.lora.SetInParent()
draft = draft_train(spec, facts, family)
print(json.dumps({
    "failed": [record.error for record in plugins.failed()],
    "distributions": [record.distribution for record in plugins.records if "haiku" in record.distribution],
    "source": draft.template.source,
    "stops": list(draft.template.stop_token_ids),
    "targets": list(draft.target_modules),
    "format": facts.quantization.format,
    "bits": facts.quantization.bits_per_weight,
    "parameters": facts.parameter_count,
}))
"""


def write_base(folder: Path) -> Path:
    """Write a base of the page's family in the page's format, as its lab would publish one."""
    folder.mkdir()
    entries: dict[str, object] = {}
    position = 0
    for name, (dtype, shape) in TENSORS.items():
        size = (1 if dtype == "U8" else 2) * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(position)
    (folder / "model.safetensors").write_bytes(weights)
    config = {
        "model_type": "haiku",
        "architectures": ["HaikuForCausalLM"],
        "hidden_size": 8,
        "dtype": "float16",
        "eos_token_id": 1,
        "quantization_config": {"quant_method": "ternary"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    added = [{"id": 2, "content": "<|end|>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {}}, "added_tokens": added}))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's distribution, installed as a person installs it, beside this environment."""
    source, site = tmp_path_factory.mktemp("haiku"), tmp_path_factory.mktemp("site")
    assert len(extract(PAGE, source)) == 3
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True, timeout=300)
    return site


def resolve(base: Path, *, site: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TUNEFLEET_PLUGINS"}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, "-c", RESOLVE, str(base)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_base_of_a_third_party_is_recognised_by_its_files_alone(site: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    done = resolve(base, site=site)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "failed": [],
        "distributions": ["tunefleet-haiku==0.1.0"] * 2,
        "source": "family:haiku",
        "stops": [1, 2],
        "targets": [f"{LAYER}.mlp.up_proj", f"{LAYER}.self_attn.q_proj"],
        "format": "ternary",
        "bits": 2 + 16 * 40 / (40 * 8),
        "parameters": 16 * 8 + 40 * 8 + 4 * 8,
    }


def test_without_it_the_same_base_is_refused_by_name(tmp_path: Path) -> None:
    done = resolve(write_base(tmp_path / "base"), site=None)
    assert done.returncode == 1
    assert "No family plugin knows the model type 'haiku'" in done.stderr


def test_the_template_on_the_page_marks_the_answer_and_its_end(site: Path) -> None:
    import jinja2

    code = "import haiku_family as f; print(f.HAIKU.chat_template)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    text = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.rstrip("\n")
    marked = text.replace("{% generation %}", "{{ '[' }}").replace("{% endgeneration %}", "{{ ']' }}")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = jinja2.Environment().from_string(marked).render(messages=chat, add_generation_prompt=True)
    assert rendered == "<|user|>a<|end|><|assistant|>[b<|end|>]<|assistant|>"
