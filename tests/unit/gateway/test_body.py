"""The body parser agrees with `json`, and changes nothing but the model's name and a developer's."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tunefleet_services.gateway.body import parse_body
from tunefleet_services.gateway.errors import GatewayError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    before=st.dictionaries(TEXT, VALUES, max_size=4),
    after=st.dictionaries(TEXT, VALUES, max_size=4),
    model=TEXT.filter(bool),
    engine_model=TEXT,
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_only_the_models_name_changes(before, after, model, engine_model, is_ascii, indent):
    assume(not before.keys() & after.keys() and "model" not in before | after)
    body = {**before, "model": model, **after}
    data = json.dumps(body, ensure_ascii=is_ascii, indent=indent).encode()
    parsed = parse_body(data)
    assert parsed.model == model
    assert parsed.is_stream == (body.get("stream") is True)
    assert json.loads(parsed.for_engine(engine_model)) == {**body, "model": engine_model}
    assert parsed.for_engine(model) == data or is_ascii is False  # the same name, spelled in ASCII


@given(
    before=st.dictionaries(TEXT, VALUES, max_size=3),
    messages=st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["developer", "user", "assistant"]), "content": VALUES},
            optional={"name": TEXT},
        )
        | VALUES,
        max_size=5,
    ),
    model_is_last=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_a_developer_becomes_the_system_and_nothing_else_changes(before, messages, model_is_last, indent):
    assume(not before.keys() & {"model", "messages"})
    both = {"messages": messages, "model": "m"} if model_is_last else {"model": "m", "messages": messages}
    data = json.dumps({**before, **both}, indent=indent).encode()
    parsed = parse_body(data)
    read = [
        {**turn, "role": "system"} if isinstance(turn, dict) and turn.get("role") == "developer" else turn
        for turn in messages
    ]
    expected = {**before, **both, "messages": read, "model": "inside"}
    assert parsed.for_engine("inside") == json.dumps(expected, indent=indent).encode()
    assert parsed.fields["messages"] == messages  # as the client says it


def test_a_developer_is_known_by_its_value_not_by_its_spelling():
    body = (
        rb'{"model":"m", "messages":[ {"content":"developer" ,"role" : "dev\u0065loper"}, {"role":"user"}]}'
    )
    said = parse_body(body).for_engine("m")
    assert (
        said == rb'{"model":"m", "messages":[ {"content":"developer" ,"role" : "system"}, {"role":"user"}]}'
    )


def test_a_developers_message_with_two_roles_is_refused():
    # Which of them an engine would take is not known here.
    with pytest.raises(GatewayError, match="'role' twice"):
        parse_body(b'{"model":"m","messages":[{"role":"user","role":"developer"}]}')


@given(st.text(st.sampled_from('{}[]":,\\ \n01e-.tmodelrufs'), max_size=30) | TEXT)
def test_what_json_refuses_is_refused_and_never_anything_but_a_400(text):
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    try:
        parsed = parse_body(text.encode())
    except GatewayError as error:
        status = error.status
    else:
        assert document is not None
        assert parsed.model == document["model"]
        return
    assert status == 400


def test_stream_counts_only_as_the_value_true():
    assert parse_body(b'{"model":"m","stream":true}').is_stream
    for other in ("false", "1", '"true"', "null"):
        assert not parse_body(b'{"model":"m","stream":%s}' % other.encode()).is_stream


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{\n"model": "m",}', "line 2, column 14"),
        (b'{"model": "m"', "Expected ','"),
        (b'{"model" "m"}', "Expected ':'"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
        (b'{"t": -Infinity}', "-Infinity is not JSON"),
        ('{"model":"m"}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_the_message_says_what_is_wrong_and_where(body, said):
    with pytest.raises(GatewayError) as caught:
        parse_body(body)
    assert said in caught.value.message
