"""Conversations that trainer and engine both render, to compare the token ids.

They are chosen for what goes wrong in templates: several answers (templates that strip
earlier turns), a system turn (templates that move it) and an empty one, white space at the
edges (templates that trim), characters of several bytes, text that looks like markup.

Those with tools or thoughts count where the rows hold any and the template shows them: a
template that knows no tools is right for a model that is not to call any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tunefleet_core.data.tools import Tool

__all__ = ["REFERENCE_CONVERSATIONS", "ReferenceConversation", "reference_prompts"]

Turn = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConversation:
    """A conversation in the form chat templates take, oldest turn first.

    `needs` names what a template has to show for it: `tools`, `parallel_calls`, `thoughts`.
    """

    messages: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    needs: frozenset[str] = frozenset()

    def prompts(self) -> Iterator[tuple[int, ReferenceConversation]]:
        """Yield index and context of every assistant turn but a first one."""
        for turn, message in enumerate(self.messages):
            if turn and message["role"] == "assistant":
                yield (
                    turn,
                    ReferenceConversation(messages=self.messages[:turn], tools=self.tools, needs=self.needs),
                )


def _user(text: str) -> Turn:
    return {"role": "user", "content": text}


def _system(text: str) -> Turn:
    return {"role": "system", "content": text}


def _answer(text: str, *, thought: str = "") -> Turn:
    return {"role": "assistant", "content": text, **({"reasoning_content": thought} if thought else {})}


def _calls(*calls: tuple[str, str, Mapping[str, object]], thought: str = "") -> Turn:
    # Ids of nine letters and digits are the only ones that every template takes.
    made = [
        {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
        for identity, name, arguments in calls
    ]
    return {**_answer("", thought=thought), "tool_calls": made}


def _result(identity: str, name: str, text: str) -> Turn:
    return {"role": "tool", "tool_call_id": identity, "name": name, "content": text}


def _tool(name: str, description: str, properties: Mapping[str, object], required: str) -> Tool:
    schema = {"type": "object", "properties": properties, "required": [required]}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


_TOOLS = (
    _tool(
        "get_weather",
        "Current weather of a city, e.g. 東京.",
        {
            "city": {"type": "string", "description": "The city's name."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "city",
    ),
    _tool(
        "find_trains",
        "Trains between two stations.",
        {
            "stations": {"type": "array", "items": {"type": "string"}},
            "most": {"type": "integer", "description": "Trains to return."},
            "direct": {"type": "boolean"},
        },
        "stations",
    ),
)
_WEATHER, _TRAINS = "get_weather", "find_trains"
_NEEDS_TOOLS, _NEEDS_THOUGHTS = frozenset({"tools"}), frozenset({"thoughts"})

REFERENCE_CONVERSATIONS: tuple[ReferenceConversation, ...] = (
    ReferenceConversation(messages=(_user("What is the capital of France?"), _answer("Paris."))),
    ReferenceConversation(
        messages=(
            _system("Answer with one JSON object."),
            _user("Name: Ada\nAge: 36"),
            _answer('{"name": "Ada", "age": 36}'),
        )
    ),
    ReferenceConversation(
        messages=(
            _user("2 + 2?"),
            _answer("4"),
            _user("And twice that?"),
            _answer("8"),
            _user("Thank you!"),
            _answer("You are welcome."),
        )
    ),
    ReferenceConversation(
        messages=(
            _user("  Grüße aus 東京 🙂 — naïve?\n\n- a\n\t- b  "),
            _answer("\nÜbersetzung: 😀\n"),
            _user("<b>&amp;</b> {{ x }} {% y %}"),
            _answer("```python\nprint('x')\n```"),
        )
    ),
    ReferenceConversation(messages=(_system(""), _user("Hi"), _answer("Hello."))),
    ReferenceConversation(
        tools=_TOOLS,
        needs=_NEEDS_TOOLS,
        messages=(
            _user("Wie ist das Wetter in 東京? 🙂"),
            _calls(("weather01", _WEATHER, {"city": "東京", "unit": "celsius"})),
            _result("weather01", _WEATHER, '{"temperature": 21.5, "sky": "klar ☀"}'),
            _answer("21,5 °C, klar."),
            _user("And trains to Kyōto?"),
            _calls(("trains001", _TRAINS, {"stations": ["東京", "京都"], "most": 2, "direct": True})),
            _result("trains001", _TRAINS, "[]"),
            _answer("None."),
        ),
    ),
    ReferenceConversation(
        tools=_TOOLS[:1],
        needs=_NEEDS_TOOLS,
        messages=(
            _system("Use the tools."),
            _user("Thanks, nothing today."),
            _answer("You are welcome."),
        ),
    ),
    ReferenceConversation(
        tools=_TOOLS,
        needs=_NEEDS_TOOLS | {"parallel_calls"},
        messages=(
            _user("Weather in Paris and Rome?"),
            _calls(("weather02", _WEATHER, {"city": "Paris"}), ("weather03", _WEATHER, {"city": "Rome"})),
            _result("weather02", _WEATHER, "18"),
            _result("weather03", _WEATHER, "24"),
            _answer("18 and 24 degrees."),
        ),
    ),
    ReferenceConversation(
        needs=_NEEDS_THOUGHTS,
        messages=(
            _user("17 * 3?"),
            _answer("51", thought="10 * 3 = 30, 7 * 3 = 21.\n\n30 + 21 = 51 ✓"),
        ),
    ),
    ReferenceConversation(
        needs=_NEEDS_THOUGHTS,
        messages=(
            _system("Be brief."),
            _user("Größer: 3² or 2³?"),
            _answer("3² is.", thought="9 > 8"),
            _user("And 2⁴?"),
            _answer("16 is greater.", thought="16 > 9"),
        ),
    ),
    ReferenceConversation(
        tools=_TOOLS,
        needs=_NEEDS_TOOLS | _NEEDS_THOUGHTS,
        messages=(
            _user("Weather in Oslo?"),
            _calls(("weather04", _WEATHER, {"city": "Oslo"}), thought="The tool knows."),
            _result("weather04", _WEATHER, "-3"),
            _answer("-3 degrees.", thought="It said -3."),
        ),
    ),
)


def reference_prompts(held: Collection[str] = ()) -> Iterator[ReferenceConversation]:
    """Yield, for every assistant turn, what a server would be sent to get that turn.

    Args:
        held: What the rows hold and the template shows; conversations that need more are left out.
    """
    for conversation in REFERENCE_CONVERSATIONS:
        if conversation.needs <= set(held):
            for _, prompt in conversation.prompts():
                yield prompt
