"""Reading a model folder: the facts it yields, and every reason to refuse it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet.model.v1.base_pb2 import Quantization
from tunefleet_core.catalog import (
    FormatRegistry,
    linear_modules,
    read_base,
    special_token_ids,
    tokenizer_digest,
    weights,
)
from tunefleet_core.catalog.format import Checkpoint, Format, PackedWeight, Recognised, Variant
from tunefleet_core.errors import Reason, TunefleetError

SHAPES = {
    "lm_head.weight": [8, 4],
    "model.embed_tokens.weight": [8, 4],
    "model.layers.0.self_attn.q_proj.weight": [4, 4],
    "model.norm.weight": [4],
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def safetensors(shapes: dict[str, list[int]], *, fill: int = 0) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        size = 4
        for count in shape:
            size *= count
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * position


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def make_base(folder: Path) -> Path:
    put(
        folder / "config.json",
        {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "eos_token_id": 2,
            "max_position_embeddings": 4096,
        },
    )
    put(folder / "generation_config.json", {"eos_token_id": [5, 2]})
    put(
        folder / "tokenizer.json",
        {
            "added_tokens": [
                {"id": 5, "content": "<|im_end|>", "special": True},
                {"id": 6, "content": "<think>", "special": False},
            ],
            "model": {"type": "BPE", "vocab": {"a": 0, "</s>": 3}},
        },
    )
    put(folder / "tokenizer_config.json", {"eos_token": {"content": "</s>"}, "model_max_length": 10**30})
    put(folder / "chat_template.jinja", "{{ messages }}")
    (folder / "model.safetensors").write_bytes(safetensors(SHAPES))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def refusal(source: Path | str, *, revision: str = "") -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        read_base(source, revision=revision)
    assert caught.value.reason is Reason.BASE_INVALID
    assert caught.value.hint
    return caught.value


def test_the_facts_of_a_single_file_model(base: Path) -> None:
    facts = read_base(base, model="./base")
    assert (facts.model, facts.path, facts.commit) == ("./base", str(base), "")
    assert (facts.model_type, list(facts.architectures)) == ("qwen3", ["Qwen3ForCausalLM"])
    assert [(tensor.name, list(tensor.shape), tensor.dtype) for tensor in facts.tensors] == [
        (name, shape, "F32") for name, shape in sorted(SHAPES.items())
    ]
    assert (facts.parameter_count, facts.weights_bytes) == (84, 336)
    assert list(facts.eos_token_ids) == [5, 2, 3]
    assert special_token_ids(facts) == {"<|im_end|>": 5}
    assert facts.chat_template == "{{ messages }}"
    assert facts.max_positions == 4096
    assert json.loads(facts.config_json)["model_type"] == "qwen3"


def test_shards_are_read_through_their_index(base: Path) -> None:
    (base / "model.safetensors").unlink()
    names = sorted(SHAPES)
    halves = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for shard, members in halves.items():
        (base / shard).write_bytes(safetensors({name: SHAPES[name] for name in members}))
    weight_map = {name: shard for shard, members in halves.items() for name in members}
    put(base / "model.safetensors.index.json", {"weight_map": weight_map})
    facts = read_base(base)
    assert [tensor.name for tensor in facts.tensors] == names
    assert facts.parameter_count == 84


def test_nested_text_configs_and_older_tokenizer_files_are_understood(base: Path) -> None:
    put(
        base / "config.json",
        {"model_type": "gemma3", "text_config": {"max_position_embeddings": 77, "eos_token_id": 1}},
    )
    (base / "chat_template.jinja").unlink()
    (base / "generation_config.json").unlink()
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    decoder = {"9": {"content": "<eos>", "special": True}}
    config = {"chat_template": templates, "added_tokens_decoder": decoder, "eos_token": "<eos>"}
    put(base / "tokenizer_config.json", config)
    facts = read_base(base)
    assert (facts.max_positions, list(facts.eos_token_ids), facts.chat_template) == (77, [1, 9], "D")


def test_the_end_token_of_a_unigram_vocabulary_is_found(base: Path) -> None:
    put(base / "tokenizer.json", {"model": {"vocab": [["<pad>", 0.0], ["</s>", 0.0]]}})
    assert list(read_base(base).eos_token_ids) == [5, 2, 1]


def test_a_base_without_template_or_length_has_none(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    put(base / "config.json", {"model_type": "qwen3"})
    facts = read_base(base)
    assert (facts.chat_template, facts.max_positions) == ("", 0)


def change_config(base: Path) -> None:
    put(base / "config.json", {"model_type": "qwen3", "rope_theta": 1})


def change_shape(base: Path) -> None:
    (base / "model.safetensors").write_bytes(safetensors(SHAPES | {"model.norm.weight": [5]}))


def change_content(base: Path) -> None:
    (base / "model.safetensors").write_bytes(safetensors(SHAPES, fill=1))


@pytest.mark.parametrize("change", [change_config, change_shape, change_content])
def test_the_base_digest_changes_with_config_shapes_and_content(
    base: Path, change: Callable[[Path], None]
) -> None:
    before = read_base(base)
    assert read_base(base).base_digest == before.base_digest
    change(base)
    after = read_base(base)
    assert after.base_digest != before.base_digest
    assert after.tokenizer_digest == before.tokenizer_digest


def test_large_weights_are_known_by_header_and_size_only(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "FULL_HASH_BYTES", 10)
    before = read_base(base).base_digest
    change_content(base)
    assert read_base(base).base_digest == before
    change_shape(base)
    assert read_base(base).base_digest != before


def test_the_tokenizer_digest_changes_with_a_token(base: Path) -> None:
    before = tokenizer_digest(base)
    put(base / "tokenizer.json", {"model": {"vocab": {"b": 0}}})
    assert read_base(base).tokenizer_digest == tokenizer_digest(base) != before


def make_adapter(base: Path) -> None:
    (base / "config.json").unlink()
    put(base / "adapter_config.json", {"base_model_name_or_path": "org/base"})


def make_pickle(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def drop(*names: str) -> Callable[[Path], None]:
    return lambda base: [(base / name).unlink() for name in names] and None


def weights_of(content: bytes) -> Callable[[Path], None]:
    return lambda base: (base / "model.safetensors").write_bytes(content) and None


def index_of(value: object) -> Callable[[Path], None]:
    def write(base: Path) -> None:
        (base / "model.safetensors").rename(base / "a.safetensors")
        put(base / "model.safetensors.index.json", value)

    return write


def config_of(text: str) -> Callable[[Path], None]:
    return lambda base: put(base / "config.json", text)


WHOLE = safetensors(SHAPES)
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (make_adapter, "is an adapter, and an adapter is not a base; it was trained on 'org/base'."),
        (drop("config.json"), "has no config.json, so it is no model folder."),
        (config_of("{"), "config.json' is not JSON: "),
        (config_of("[" * 100_000), "config.json' is not JSON: "),
        (config_of('"x"'), "config.json' does not hold a JSON object."),
        (config_of("{}"), "config.json' does not say its 'model_type'."),
        (config_of('{"model_type": "\\ud800"}'), "config.json' is not JSON: "),
        (config_of(" " * (4 * 1024**2 + 1)), "config.json' is larger than 4 MiB"),
        (drop("tokenizer.json"), "has no tokenizer: no tokenizer.json, tokenizer.model or vocab.json."),
        (make_pickle, "holds its weights only as pickle (pytorch_model.bin), which can run code when read."),
        (drop("model.safetensors"), "has no weights: neither model.safetensors nor"),
        (weights_of(b""), "is no safetensors file or is cut off"),
        (weights_of(WHOLE[:20]), "is no safetensors file or is cut off"),
        (weights_of(WHOLE[:-1]), "holds 335 bytes of tensors where its header promises 336."),
        (weights_of(WHOLE + b"x"), "holds 337 bytes of tensors where its header promises 336."),
        (weights_of(raw_safetensors(b"{x}")), "model.safetensors' is not JSON: "),
        (weights_of(raw_safetensors({"a": 3})), "describes the tensor 'a' wrongly."),
        (weights_of(raw_safetensors({"a": ENTRY | {"shape": [True]}}, b"0000")), "describes the tensor 'a'"),
        (weights_of(raw_safetensors({"a": ENTRY | {"shape": [-1]}}, b"0000")), "describes the tensor 'a'"),
        (weights_of(raw_safetensors({"a": ENTRY | {"shape": [3]}}, b"0000")), "which is not F32 [3]."),
        (
            weights_of(raw_safetensors({"a": ENTRY | {"shape": [2**62], "dtype": "NEW"}}, b"0000")),
            "which is not NEW [4611686018427387904].",
        ),
        (weights_of(raw_safetensors({"a": ENTRY, "b": ENTRY}, b"0000")), "overlap or leave holes."),
        (index_of({}), "has no 'weight_map'."),
        (index_of({"weight_map": {"x": "../a.safetensors"}}), "the shard '../a.safetensors', which is not a"),
        (index_of({"weight_map": {"x": "/etc/passwd"}}), "the shard '/etc/passwd', which is not a file of"),
        (index_of({"weight_map": {"x": ".."}}), "the shard '..', which is not a file of its own folder."),
        (index_of({"weight_map": {"x": "b.safetensors"}}), "b.safetensors' cannot be read: No such file"),
        (index_of({"weight_map": {"x": "a.safetensors"}}), "promises the tensor 'x' in 'a.safetensors'"),
    ],
)
def test_a_folder_that_is_no_sound_base_is_refused(
    base: Path, change: Callable[[Path], None], expected: str
) -> None:
    change(base)
    assert expected in refusal(base).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(base: Path) -> None:
    (base / "config.json").chmod(0)
    assert "cannot be read" in refusal(base).message


def test_a_missing_folder_and_a_revision_of_a_folder_are_refused(base: Path) -> None:
    assert refusal(base / "none").message == f"There is no model folder at '{base / 'none'}'."
    assert "There is no model folder at ''." in refusal("").message
    assert "is a local folder, which has no revision 'main'" in refusal(base, revision="main").message


def test_a_downloaded_hub_model_is_found_with_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    repository = tmp_path / "hub" / "models--org--tiny"
    make_base(repository / "snapshots" / COMMIT)
    put(repository / "refs" / "main", COMMIT)
    for revision in ("", "main", COMMIT):
        facts = read_base("org/tiny", revision=revision)
        assert (facts.model, facts.commit) == ("org/tiny", COMMIT)
    assert "'../x' is no Hub revision." in refusal("org/tiny", revision="../x").message


KEYS = (
    ["model_type", "eos_token_id", "architectures", "added_tokens", "id", "content", "vocab"],
    ["model", "eos_token", "chat_template", "text_config", "added_tokens_decoder", "99"],
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the folder is rewritten for every example
@given(
    name=st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
    content=st.binary(max_size=64)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*KEYS[0], *KEYS[1]]),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_content_of_a_file_is_read_or_refused(base: Path, name: str, content: bytes) -> None:
    make_base(base)
    (base / name).write_bytes(raw_safetensors(content) if name == "model.safetensors" else content)
    try:
        facts = read_base(base)
    except TunefleetError as error:
        is_fine = error.reason is Reason.BASE_INVALID
    else:
        is_fine = bool(facts.model_type)
    assert is_fine


def packed_base(base: Path) -> FormatRegistry:
    """Pack the one linear layer of a base four to a number, with scales beside it."""

    def recognise(checkpoint: Checkpoint) -> Recognised | None:
        if "quantization_config" not in checkpoint.config:
            return None
        name = "model.layers.0.self_attn.q_proj"
        assert checkpoint.tensors[f"{name}.packed"] == ("F32", (1, 4))
        assert "model.safetensors" in checkpoint.files
        weight = PackedWeight(shape=(4, 4), parts=(f"{name}.packed", f"{name}.scales"))
        return Recognised(
            variant="v", carrier="box", bits_per_weight=12.0, weights={f"{name}.weight": weight}
        )

    shapes = {name: shape for name, shape in SHAPES.items() if "q_proj" not in name}
    shapes |= {
        "model.layers.0.self_attn.q_proj.packed": [1, 4],
        "model.layers.0.self_attn.q_proj.scales": [2],
    }
    (base / "model.safetensors").write_bytes(safetensors(shapes))
    config = json.loads((base / "config.json").read_text())
    put(base / "config.json", config | {"dtype": "float16", "quantization_config": {"quant_method": "box"}})
    variants = (Variant(name="v", bits_per_weight=12.0),)
    return FormatRegistry([Format(name="boxed", summary="", variants=variants, recognise=recognise)])


def test_a_quantised_base_counts_the_weights_that_it_stands_for(base: Path) -> None:
    whole = read_base(base)
    facts = read_base(base, formats=packed_base(base))
    assert facts.quantization == Quantization(
        format="boxed", variant="v", carrier="box", bits_per_weight=12.0
    )
    assert facts.parameter_count == whole.parameter_count == 84
    assert [tensor.name for tensor in facts.tensors] == [tensor.name for tensor in whole.tensors]
    packed = next(tensor for tensor in facts.tensors if "q_proj" in tensor.name)
    assert (list(packed.shape), packed.dtype) == ([4, 4], "F16")
    assert facts.weights_bytes == whole.weights_bytes - (16 - 6) * 4
    assert linear_modules(facts) == linear_modules(whole)


def test_a_quantised_base_of_no_known_format_says_so(base: Path) -> None:
    packed_base(base)
    facts = read_base(base)
    assert facts.quantization == Quantization(carrier="box")
    assert facts.parameter_count == 84 - 16 + 6


def test_a_whole_base_has_no_quantisation(base: Path) -> None:
    assert not read_base(base).HasField("quantization")


def test_a_gguf_file_is_refused_by_name(base: Path) -> None:
    (base / "config.json").unlink()
    (base / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "holds a GGUF file" in str(refusal(base))
