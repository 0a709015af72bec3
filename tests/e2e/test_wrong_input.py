"""Every wrong input that people have is refused at submit, by field or line, with the next step.

`test_refusals.py` holds what a refusal looks like to people; this is the catalogue.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from local_fleet import BASE, TICKETS, LocalFleet, missing_backend

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "hub"))

from fake_hub import FakeHub, serving

pytestmark = [
    pytest.mark.backend,
    pytest.mark.slow,  # a fleet of its own for more refusals
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

_JOB = """\
name: wrong
train:
  base: {{model: {base}}}
  data: {{train: [{{source: {rows}}}]}}
  method: {{sft: {{}}}}
  adapter: {{lora: {{rank: 8}}}}
  optim: {{epochs: 1}}
backend: trl
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A wrong input: how to make it, and what must be said."""

    make: Callable[[Path], str]
    """Writes what it needs below a folder and returns the text of the job file."""
    reason: str
    says: tuple[str, ...]
    hints: tuple[str, ...] = ()


def _job(old: str = "", new: str = "", *, base: Path | str = BASE, rows: Path | None = None) -> str:
    text = _JOB.format(base=base, rows=rows or TICKETS / "train.jsonl")
    assert old in text
    return text.replace(old, new) if old else text


def _with_rows(content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "rows.jsonl").write_bytes(content)
        return _job(rows=folder / "rows.jsonl")

    return make


def _with_base(change: Callable[[Path], object]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        base = Path(shutil.copytree(BASE, folder / "base"))
        change(base)
        return _job(base=base)

    return make


def _text(old: str, new: str) -> Callable[[Path], str]:
    return lambda folder: _job(old, new)


def _pickle_only(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def _index_outside(base: Path) -> None:
    (base / "model.safetensors").rename(base.parent / "secret.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "../secret.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def _without_template(base: Path) -> None:
    """A base of a family that nobody knows, and no template of its own."""
    (base / "chat_template.jinja").unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "qwen33"}))


_GOOD_ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'

_WRONG = {
    "broken-yaml": Wrong(
        make=_text("epochs: 1}", "epochs: 1"), reason="FIELD_INVALID", says=("job.yaml:8", "not YAML")
    ),
    "duplicate-key": Wrong(
        make=_text("epochs: 1", "epochs: 1, epochs: 2"), reason="FIELD_INVALID", says=("job.yaml:7", "epochs")
    ),
    "unknown-field": Wrong(
        make=_text("epochs: 1", "epoch: 1"), reason="FIELD_INVALID", says=("job.yaml:7", "'epochs'")
    ),
    "no-epochs": Wrong(
        make=_text("epochs: 1", "epochs: 0"), reason="FIELD_INVALID", says=("train.optim.epochs",)
    ),
    "no-rank": Wrong(
        make=_text("rank: 8", "rank: 0"), reason="FIELD_INVALID", says=("train.adapter.lora.rank",)
    ),
    "nan": Wrong(
        make=_text("epochs: 1", "learning_rate: .nan"), reason="FIELD_INVALID", says=("job.yaml:7", "nan")
    ),
    "number-as-text": Wrong(
        make=_text("epochs: 1", "learning_rate: '2e-4'"),
        reason="FIELD_INVALID",
        says=("job.yaml:7", "train.optim.learning_rate"),
    ),
    "missing-file": Wrong(
        make=lambda folder: _job(rows=folder / "none.jsonl"), reason="DATA_INVALID", says=("none.jsonl",)
    ),
    "empty-dataset": Wrong(make=_with_rows(b"\n\n"), reason="DATA_INVALID", says=("rows.jsonl", "no rows")),
    "bad-json": Wrong(
        make=_with_rows(_GOOD_ROW * 6 + b'{"messages": [\n'),
        reason="DATA_INVALID",
        says=("rows.jsonl:7", "not JSON"),
    ),
    "unknown-role": Wrong(
        make=_with_rows(_GOOD_ROW * 2 + _GOOD_ROW.replace(b'"user"', b'"human"')),
        reason="DATA_INVALID",
        says=("rows.jsonl:3", "messages[0].role", '"human"'),
    ),
    "no-assistant": Wrong(
        make=_with_rows(b'{"messages": [{"role": "user", "content": "a"}]}\n'),
        reason="DATA_INVALID",
        says=("rows.jsonl:1", "'assistant'"),
    ),
    "not-utf8": Wrong(
        make=_with_rows(_GOOD_ROW + _GOOD_ROW.replace(b'"a"', b'"\xe9"')),
        reason="DATA_INVALID",
        says=("rows.jsonl:2", "UTF-8", "0xe9"),
    ),
    "ten-megabytes": Wrong(
        make=_with_rows(_GOOD_ROW + _GOOD_ROW.replace(b'"a"', b'"' + b"a" * (10 << 20) + b'"')),
        reason="DATA_INVALID",
        says=("rows.jsonl:2", "8 MiB"),
    ),
    "all-too-long": Wrong(
        make=_text("optim:", "max_length: 16\n  optim:"),
        reason="DATA_INVALID",
        says=("400 of 400 rows are longer than 16 tokens",),
        hints=("max_length",),
    ),
    "no-tokenizer": Wrong(
        make=_with_base(lambda base: (base / "tokenizer.json").unlink()),
        reason="BASE_INVALID",
        says=("tokenizer",),
    ),
    "no-template": Wrong(make=_with_base(_without_template), reason="BASE_INVALID", says=("qwen33", "qwen3")),
    "pickle-weights": Wrong(
        make=_with_base(_pickle_only), reason="BASE_INVALID", says=("pickle", "pytorch_model.bin")
    ),
    "index-outside": Wrong(
        make=_with_base(_index_outside), reason="BASE_INVALID", says=("../secret.safetensors",)
    ),
    "nobodys-backend": Wrong(
        make=_text("backend: trl", "backend: tlr"), reason="BACKEND_NOT_INSTALLED", says=("'tlr'", "'trl'")
    ),
    "unknown-hub-id": Wrong(
        make=lambda folder: _job(base="org/nothing"),
        reason="BASE_INVALID",
        says=("'org/nothing'", "on the Hub"),
        hints=("HF_TOKEN",),
    ),
    "gated": Wrong(
        make=lambda folder: _job(base="org/closed"),
        reason="HUB_ACCESS_DENIED",
        says=("'org/closed'",),
        hints=("HF_TOKEN", "https://huggingface.co/org/closed"),
    ),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(models={"org/closed": BASE}, gated={"org/closed"})) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(hub: FakeHub) -> AsyncIterator[LocalFleet]:
    """A running fleet whose Hub is the fake one."""
    if missing := missing_backend("trl", "embedded"):
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="tf-e2e-", dir="/tmp"))
    running = LocalFleet(root, extra={"HF_ENDPOINT": hub.address, "HF_HOME": str(root / "hf")})
    try:
        await running.start()
        yield running
    finally:
        await running.close()
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("case", list(_WRONG))
async def test_wrong_input_is_refused(fleet: LocalFleet, tmp_path: Path, case: str) -> None:
    wrong = _WRONG[case]
    (tmp_path / "job.yaml").write_text(wrong.make(tmp_path))
    ended = await fleet.cli("train", tmp_path / "job.yaml", "--json")
    assert ended.code == 1, ended.stdout + ended.stderr
    error = ended.document("error")
    assert error["reason"] == wrong.reason, error
    for words in wrong.says:
        assert words in error["message"], error
    assert error["hint"]
    for words in wrong.hints:
        assert words in error["hint"], error
    async with fleet.client() as client:
        assert not await client.jobs.list()


async def test_without_a_network_a_hub_id_is_said_to_be_out_of_reach(
    fleet: LocalFleet, hub: FakeHub, tmp_path: Path
) -> None:
    hub.is_down = True
    try:
        (tmp_path / "job.yaml").write_text(_job(base="org/elsewhere"))
        error = (await fleet.cli("train", tmp_path / "job.yaml", "--json")).document("error")
    finally:
        hub.is_down = False
    assert error["reason"] == "HUB_UNREACHABLE"
    assert "org/elsewhere" in error["message"]
