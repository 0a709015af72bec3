"""Job files: what they mean, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from tunefleet.job.v1.spec_pb2 import JobSpec
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.spec import parse_job_file, parse_job_text, spec_to_yaml

HEAD = "name: x\n"
TRAIN = HEAD + "train:\n  base: {model: org/base}\n  data: {train: [{source: /a.jsonl}]}\n"
FULL = """\
name: tickets-to-json
train:
  base: {model: Qwen/Qwen3-0.6B, revision: main}
  data: {train: [{source: data/train.jsonl}], validation: data/eval.jsonl}
  method: {sft: {packing: true}}
  adapter: {lora: {rank: 16, alpha: 16, targets: all-linear}}
  quantization: nf4
  optim: {learning_rate: 2e-4, epochs: 3, batch_size: 16, schedule: cosine, warmup_ratio: 0.03}
  max_length: 2048
  checkpoint: {every_steps: 200, keep: 3}
backend: trl
resources: {devices: 1, labels: {site: office}}
"""


def parse(text: str) -> JobSpec:
    return parse_job_text(text, base_dir=None, origin="job.yaml")


def refusal(text: str) -> TunefleetError:
    with pytest.raises(TunefleetError) as caught:
        parse(text)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.hint
    assert caught.value.violations
    return caught.value


def test_a_job_file_has_the_fields_of_the_proto() -> None:
    spec = parse(FULL)
    assert spec.train.optim.learning_rate == 2e-4
    assert spec.train.optim.epochs == 3.0
    assert list(spec.train.adapter.lora.targets) == ["all-linear"]
    assert spec.train.method.sft.packing
    assert spec.resources.labels["site"] == "office"
    assert not spec.HasField("max_attempts")


def test_an_empty_message_is_present_with_its_defaults() -> None:
    spec = parse(TRAIN + "  adapter: {lora: {}}\n  method: {sft: {}}\n")
    assert spec.train.adapter.WhichOneof("adapter") == "lora"
    assert not parse(TRAIN).train.HasField("adapter")


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("2e-4", 2e-4),
        ("1.10", 1.1),
        (".5", 0.5),
        ("0x10", 16),
        ("0o17", 15),
        ("010", 10),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("'2e-4'", "2e-4"),
        ("~", None),
        ("[1, {a: off}]", [1, {"a": "off"}]),
        ("9007199254740992", 2**53),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(scalar: str, expected: object) -> None:
    spec = parse(TRAIN + f"backend_options: {{v: {scalar}}}\n")
    assert json_format.MessageToDict(spec.backend_options) == {"v": expected}


def test_whole_numbers_fit_numbers_and_round_floats_fit_integers() -> None:
    optim = parse(TRAIN + "  optim: {epochs: 2, max_steps: 1e3}\n").train.optim
    assert (optim.epochs, optim.max_steps) == (2.0, 1000)


def test_one_value_stands_for_a_list_of_text() -> None:
    lora = "  adapter: {lora: {targets: [q_proj, v_proj]}}\n"
    assert list(parse(TRAIN + lora).train.adapter.lora.targets) == ["q_proj", "v_proj"]


def test_anchors_and_aliases_may_be_used() -> None:
    spec = parse(TRAIN + "labels: &site {site: a}\nresources: {labels: *site}\n")
    assert dict(spec.resources.labels) == {"site": "a"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: is empty"),
        ("# nothing\n", "1: is empty"),
        ("3", "1: must be a mapping of fields, got the number 3"),
        ("- a", "1: must be a mapping of fields, got a list"),
        (HEAD + "name: y\n", "2: 'name' is given twice, first on line 1"),
        (HEAD + "train: [\n", "3: is not YAML: expected the node content, but found '<stream end>'"),
        (HEAD + "a: b: c\n", "2: is not YAML: mapping values are not allowed here"),
        (HEAD + "---\nname: y\n", "2: holds a second document; a job file is one document"),
        (HEAD + "train: !!python/object:os.x {}\n", "2: the tag tag:yaml.org,2002:python/object:os.x"),
        ("!mine {}", "1: the tag !mine is not allowed; write plain YAML"),
        (HEAD + "labels: *a\n", "2: *a refers to no anchor before it"),
        (HEAD + "labels: &a {b: *a}\n", "2: *a refers to itself"),
        (HEAD + "? [a]\n: b\n", "2: has a key that is not plain text"),
        (HEAD + "labels: {a: .nan}\n", "2: must be a finite number, got .nan"),
        (HEAD + "labels: {a: -.INF}\n", "2: must be a finite number, got -.INF"),
        (HEAD + "labels: {a: 1e999}\n", "2: must be a finite number, got 1e999"),
        (HEAD + "priority: " + "1" * 5000, "2: is a number of 5000 characters"),
        (HEAD + "backend: \x07\n", "2: is not YAML: holds a character that no text file holds"),
        (HEAD + 'backend: "\\ud800"\n', "2: holds half a surrogate pair, which is no text"),
        (HEAD + 'backend: "\\UFFFFFFFF"\n', "1: is not YAML: "),
        ("[" * 1000, "1: is nested deeper than 64 levels"),
        (HEAD + "#" * 1024**2, "1: is larger than 1 MiB"),
        (TRAIN + "labels:\n", "5: labels: is empty; write {} for its defaults or leave it out"),
        (TRAIN + "backend: ~\n", "5: backend: is empty; give a value or leave it out"),
        (TRAIN + "bakend: trl\n", "5: bakend: is not a field; did you mean 'backend'?"),
        (TRAIN + "  learning_rate: 1\n", "5: train.learning_rate: is not a field; did you mean "
         "'train.optim.learning_rate'?"),
        (TRAIN + "  optim: {learning_rte: 1}\n", "5: train.optim.learning_rte: is not a field; "
         "did you mean 'learning_rate'?"),
        (TRAIN + "qqqq: 1\n", "5: qqqq: is not a field"),
        (TRAIN + "evaluate: {}\n", "5: evaluate: cannot be given beside 'train' on line 2"),
        (TRAIN + "backend: 3\n", "5: backend: must be text, got the number 3; put it in quotes"),
        (TRAIN + "backend: [a]\n", "5: backend: must be text, got a list"),
        (TRAIN + "priority: high\n", "5: priority: must be a whole number, got the text 'high'"),
        (TRAIN + "priority: 1.5\n", "5: priority: must be a whole number, got the number 1.5"),
        (TRAIN + "priority: true\n", "5: priority: must be a whole number, got true"),
        (TRAIN + "priority: 2147483648\n", "5: priority: must lie between -2147483648 and 2147483647"),
        (TRAIN + '  optim: {epochs: "2e0"}\n', "5: train.optim.epochs: must be a number, "
         "got the text '2e0'; write it without quotes"),
        (TRAIN + "  optim: {learning_rate: NaN}\n", "5: train.optim.learning_rate: must be a number, "
         "got the text 'NaN'; it has to be finite"),
        (TRAIN + "  method: {sft: {packing: yes}}\n", "5: train.method.sft.packing: must be true or "
         "false, got the text 'yes'"),
        (HEAD + "train: {base: {model: a/b}, data: {train: a.jsonl}}\n", "2: train.data.train: must be "
         "a list, got the text 'a.jsonl'"),
        (TRAIN + "labels: [a]\n", "5: labels: must be a mapping of names to values, got a list"),
        (TRAIN + "labels: {a: 1}\n", "5: labels.a: must be text, got the number 1; put it in quotes"),
        (TRAIN + "backend_options: 3\n", "5: backend_options: must be a mapping of options, got the "),
        (TRAIN + "backend_options: {a: [{b: 9007199254740993}]}\n", "5: backend_options.a[0].b: is a "
         "whole number beyond 2^53, which would be rounded, got 9007199254740993"),
        (TRAIN + "  optim:\n\n    epochs: 0\n", "7: train.optim.epochs: must be greater than 0 and "
         "at most 1,000,000, got 0"),
        (TRAIN + "  optim:\n    batch_size: 4\n    micro_batch_size: 3\n", "7: "
         "train.optim.micro_batch_size: must divide batch_size 4 evenly, got 3"),
        (HEAD + "train:\n  data: {train: [{weight: 2}]}\n", "2: train.base.model: is missing; name a "
         "local folder or a Hub id\njob.yaml:3: train.data.train[0].source: is missing; name a JSONL"),
    ],
)  # fmt: skip
def test_a_wrong_job_file_is_named_by_line_and_field(text: str, expected: str) -> None:
    assert refusal(text).message.startswith(f"job.yaml:{expected}")


def test_every_problem_is_told_in_the_order_of_the_lines() -> None:
    text = TRAIN + "  optim:\n    epochs: -1\n    shedule: x\n    batch_size: a\nlabels: 3\n"
    error = refusal(text)
    assert [violation.field for violation in error.violations] == [
        "train.optim.epochs",
        "train.optim.shedule",
        "train.optim.batch_size",
        "labels",
    ]
    assert [line.split(":")[1] for line in error.message.splitlines()] == ["6", "7", "8", "9"]


def test_a_misread_field_is_not_also_called_missing() -> None:
    error = refusal(HEAD + "train:\n  base: {model: 3}\n  data: {train: [{source: 4}]}\n")
    assert [violation.field for violation in error.violations] == [
        "train.base.model",
        "train.data.train[0].source",
    ]


def test_a_misspelt_kind_is_not_also_called_missing() -> None:
    error = refusal(TRAIN + "  adapter: {lor: {}}\n")
    assert [violation.field for violation in error.violations] == ["train.adapter.lor"]


def test_a_flood_of_problems_is_cut_in_the_message_but_not_in_the_violations() -> None:
    error = refusal(TRAIN + "".join(f"zz{index}: 1\n" for index in range(30)))
    assert error.message.splitlines()[-1] == "job.yaml: and 20 more"
    assert len(error.violations) == 30


def test_aliases_cannot_grow_a_small_file_into_a_large_one() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "holds more than 50000 values, aliases written out" in refusal("\n".join(lines)).message


def test_relative_paths_are_taken_from_the_folder_of_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    job = tmp_path / "job.yaml"
    job.write_text(FULL.replace("Qwen/Qwen3-0.6B", "tiny").replace("data/eval", "../eval"))
    train = parse_job_file(job).train
    assert train.base.model == str(tmp_path / "tiny")
    assert train.data.train[0].source == str(tmp_path / "data/train.jsonl")
    assert train.data.validation == str(tmp_path.parent / "eval.jsonl")
    job.write_text(HEAD + "evaluate: {model: {model: models/a}, data: /d.jsonl, examples: e.jsonl}\n")
    evaluate = parse_job_file(job).evaluate
    assert evaluate.model.model == "models/a"
    assert (evaluate.data, evaluate.examples) == ("/d.jsonl", str(tmp_path / "e.jsonl"))


@pytest.mark.parametrize(
    ("model", "expected"),
    [("org/base", "org/base"), ("./new", "{}/new"), ("../new", "{parent}/new"), ("/abs/new", "/abs/new")],
)
def test_a_model_is_a_path_only_if_it_looks_like_one(tmp_path: Path, model: str, expected: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(TRAIN.replace("org/base", model))
    wanted = expected.format(tmp_path, parent=tmp_path.parent)
    assert parse_job_file(job).train.base.model == wanted


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_job_file_that_is_not_utf8_is_named_by_its_offset(tmp_path: Path, mark: bytes) -> None:
    job = tmp_path / "job.yaml"
    job.write_bytes(mark + b"name: x\nbackend: \xe4\n")
    with pytest.raises(TunefleetError) as caught:
        parse_job_file(job)
    assert caught.value.message == f"job.yaml:2: is not UTF-8: byte 0xe4 at offset {17 + len(mark)}"


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_bytes(b"\xef\xbb\xbf" + TRAIN.encode())
    assert parse_job_file(job).name == "x"


def test_a_job_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TunefleetError, match="cannot be read: there is no such file"):
        parse_job_file(tmp_path / "none.yaml")
    with pytest.raises(TunefleetError, match="cannot be read: Is a directory"):
        parse_job_file(tmp_path)
    (tmp_path / "big.yaml").write_bytes("ä".encode() * 1024**2)
    with pytest.raises(TunefleetError, match=r"big\.yaml:1: is larger than 1 MiB"):
        parse_job_file(tmp_path / "big.yaml")


SCRAPS = (
    "- a",
    "a: b",
    "? x",
    ": y",
    "<<: *a",
    "&a b",
    "*a",
    "!!int 3",
    "%YAML 1.3",
    "---",
    "...",
    "{",
    "]",
    "'",
)
LINES = st.sampled_from([*FULL.splitlines(), *SCRAPS])


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.lists(LINES | st.text(max_size=8), max_size=10).map("\n".join))
def test_any_text_is_a_spec_or_a_refusal(text: str) -> None:
    try:
        is_fine = isinstance(parse(text), Message)
    except TunefleetError as error:
        is_fine = error.reason is Reason.FIELD_INVALID and bool(error.violations)
    assert is_fine


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
WORDS = TEXT | st.sampled_from(
    ["no", "2e-4", "0o7", "1_0", ".nan", "null", "~", "1:30", "=", "<<", "- a", "#"]
)
OPTIONS = st.dictionaries(
    WORDS,
    st.recursive(
        st.none() | st.booleans() | WORDS | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(
    labels=st.dictionaries(WORDS.filter(str.strip), WORDS, max_size=3),
    options=OPTIONS,
    source=WORDS,
    rate=st.floats(min_value=1e-12, max_value=1),
    seed=st.none() | st.integers(0, 2**32 - 1),
)
def test_a_spec_shown_as_yaml_reads_back_the_same(
    labels: dict[str, str], options: dict[str, object], source: str, rate: float, seed: int | None
) -> None:
    spec = JobSpec(name="x", labels=labels)
    json_format.ParseDict(options, spec.backend_options)
    spec.train.base.model = source
    spec.train.data.train.add(source=source)
    spec.train.adapter.lora.SetInParent()
    spec.train.optim.learning_rate = rate
    if seed is not None:
        spec.train.seed = seed
    assert parse(spec_to_yaml(spec)) == spec
