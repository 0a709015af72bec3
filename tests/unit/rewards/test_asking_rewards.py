"""Rewards that ask something else: a JSON schema, a judge (a stand-in), a person's own file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from tunefleet.job.v1.spec_pb2 import Reward
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rewards import REWARDS, Scorer, make_scorers
from tunefleet_core.spec import parse_job_file

sys.path.append(str(Path(__file__).resolve().parents[3] / "plugins" / "trl" / "tests"))
from chat_stand_in import ChatStandIn

FIELD = "train.method.grpo.rewards"
SCHEMA = {"type": "object", "required": ["mood"], "properties": {"mood": {"enum": ["good", "bad"]}}}


def scorer(name: str, options: Mapping[str, object]) -> Scorer:
    asked = Reward(name=name, options=ParseDict(dict(options), Struct()))
    (found,) = make_scorers([asked], REWARDS, field=FIELD)
    return found.scorer


def refused(name: str, options: Mapping[str, object]) -> str:
    with pytest.raises(TunefleetError) as caught:
        scorer(name, options)
    assert caught.value.reason is Reason.FIELD_INVALID
    return caught.value.message


def test_json_is_held_against_a_schema() -> None:
    found = scorer("json_schema", {"schema": SCHEMA})
    answers = ['{"mood": "good"}', '{"mood": "odd"}', '{"mood"', "[1]"]
    assert found.score([{}] * 4, answers) == [1.0, 0.5, 0.0, 0.5]
    assert "schema must be a JSON schema" in refused("json_schema", {})
    assert "is no JSON schema" in refused("json_schema", {"schema": {"type": "text"}})


def test_a_schema_fetches_nothing() -> None:
    found = scorer("json_schema", {"schema": {"$ref": "http://127.0.0.1:9/schema"}})
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        found.score([{}], ["{}"])


def test_without_its_package_a_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert "needs the package jsonschema" in refused("json_schema", {"schema": SCHEMA})


def test_a_judge_reads_question_and_answer() -> None:
    seen: list[str] = []

    def judge(text: str) -> str:
        seen.append(text)
        return "It is 100 % right.\n7" if "rot" in text else "Nothing.\n0"

    row = {"prompt": [{"role": "user", "content": "red in German?"}]}
    with ChatStandIn(judge) as fake:
        found = scorer("judge", {"url": fake.url, "model": "m", "rubric": "Is it German?", "retries": 0})
        assert found.score([row, row], ["rot", "red"]) == [0.7, 0.0]
    assert all("Is it German?" in text and "user: red in German?" in text for text in seen)
    with ChatStandIn(lambda text: "no idea") as fake:
        found = scorer("judge", {"url": fake.url, "model": "m"})
        with pytest.raises(TunefleetError, match="gave no number: 'no idea'"):
            found.score([row], ["rot"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "m"}, "url must begin with http"),
        ({"url": "http://127.0.0.1:1/v1"}, "model is missing"),
        ({"url": "http://127.0.0.1:1/v1", "model": "m", "scale": 0}, "scale must be greater than 0"),
        ({"url": "http://127.0.0.1:1/v1", "model": "m", "tone": "kind"}, "tone is no option"),
        ({"url": "http://127.0.0.1:1/v1", "model": "m", "api_key": "NOBODYS"}, "names the secret 'NOBODYS'"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_at_submit(options: dict[str, object], says: str) -> None:
    assert says in refused("judge", options)


def test_a_file_of_code_runs_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ran = tmp_path / "mine.py", tmp_path / "ran"
    path.write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "def score(rows, answers):\n    return [float(answer == row['answer']) "
        "for row, answer in zip(rows, answers)]\n"
    )
    told = refused("python", {"file": str(path)})
    assert "who runs it allows that by starting it with TUNEFLEET_ALLOW_REWARD_CODE=1" in told
    monkeypatch.setenv("TUNEFLEET_ALLOW_REWARD_CODE", "1")
    found = scorer("python", {"file": str(path)})
    assert found.files == (str(path),)
    assert not ran.exists(), "looking at a job runs nothing"
    assert found.score([{"answer": "a"}, {"answer": "a"}], ["a", "b"]) == [1.0, 0.0]
    assert ran.exists()
    assert "has no function judge(rows, answers)" in refused(
        "python", {"file": str(path), "function": "judge"}
    )
    path.write_text("def score(:\n")
    assert "is no Python" in refused("python", {"file": str(path)})
    assert "is not there" in refused("python", {"file": str(tmp_path / "other.py")})


def test_a_file_of_code_lies_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: paid\ntrain:\n  base: {model: org/tiny}\n  data: {train: [{source: rows.jsonl}]}\n"
        "  method: {grpo: {rewards: [{name: python, options: {file: mine.py}}, {name: regex}]}}\n"
    )
    rewards = parse_job_file(tmp_path / "job.yaml").train.method.grpo.rewards
    assert rewards[0].options["file"] == str(tmp_path / "mine.py")
    assert "file" not in rewards[1].options
