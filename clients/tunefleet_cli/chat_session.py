"""One conversation with a served model: its turns, its commands, whom it is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tunefleet_cli.gateway_chat import Gateway
from tunefleet_cli.output import Output
from tunefleet_cli.output.side_by_side import fits_side_by_side, side_by_side
from tunefleet_core.errors import TunefleetError

__all__ = ["COMMANDS", "ChatSession"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "/compare": ("base|NAME|off", "Ask another deployment the same, too: the base, or NAME."),
    "/system": ("TEXT", "Set the system message and begin anew; without TEXT: none."),
    "/reset": ("", "Forget the turns, keep the system message."),
    "/save": ("FILE", "Add the conversation to FILE as a row of messages."),
    "/help": ("", "Show this."),
}


@dataclass(slots=True, kw_only=True)
class ChatSession:
    """A conversation.

    Attributes:
        output: Where answers go.
        gateway: Who passes questions on.
        model: Name of the deployment.
        options: Of the sampling, as OpenAI names them.
        find_base: Returns the deployment of the base the model was trained on.
        system: The system message; empty: none.
        turns: User and assistant turns so far.
        compared: Name of the deployment that is asked too; empty: none.
    """

    output: Output
    gateway: Gateway
    model: str
    options: Mapping[str, object]
    find_base: Callable[[], str]
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    compared: str = ""

    def take(self, line: str) -> None:
        """Take a line that a person typed: a command, or something to ask.

        Raises:
            TunefleetError: What the gateway or the coordinator answered. The turn is taken back.
        """
        if line.startswith("/") and not line.startswith("//"):
            self._command(line)
        elif line.strip():
            self.ask(line.removeprefix("/") if line.startswith("//") else line)

    def ask(self, text: str) -> None:
        """Ask, print the answer as it is generated, and keep both; Ctrl-C keeps what came."""
        self.turns.append({"role": "user", "content": text})
        try:
            if self.output.is_json:
                answer = self._document()
            elif self.compared:
                answer = self._answers()
            else:
                answer = self._answer(self.model)
        except BaseException:
            self.turns.pop()
            raise
        self.turns.append({"role": "assistant", "content": answer})

    @property
    def _messages(self) -> list[dict[str, str]]:
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def _document(self) -> str:
        completion = self.gateway.complete(self.model, self._messages, self.options)
        self.output.document("openai.ChatCompletion", completion)
        choices = cast("list[Mapping[str, Mapping[str, str]]]", completion.get("choices") or [])
        return choices[0]["message"].get("content") or "" if choices else ""

    def _answer(self, model: str) -> str:
        parts: list[str] = []
        try:
            for part in self.gateway.stream(model, self._messages, self.options):
                self.output.fragment(part)
                parts.append(part)
        except KeyboardInterrupt:
            self.output.line()
            self.output.note("Stopped.")
            return "".join(parts)
        self.output.line()
        return "".join(parts)

    def _answers(self) -> str:
        """Let both answer; the conversation goes on with the model's own answer."""
        names = (self.model, self.compared)
        if fits_side_by_side(self.output):
            streams = [self.gateway.stream(name, self._messages, self.options) for name in names]
            return side_by_side(self.output, names, streams)[0]
        answers: list[str] = []
        for name in names:
            self.output.line(f"── {name}")
            answers.append(self._answer(name))
        return answers[0]

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/compare":
                self._compare(rest)
            case "/system":
                self.system = rest
                self.turns.clear()
                self.output.note("The system message is set." if rest else "There is no system message.")
            case "/reset":
                self.turns.clear()
                self.output.note("Forgotten.")
            case "/save":
                self._save(rest)
            case "/help":
                self._help()
            case _:
                self.output.note(f"There is no {name}. /help shows what there is; // begins a text with /.")

    def _compare(self, whom: str) -> None:
        if whom == "off":
            self.compared = ""
            self.output.note(f"Only {self.model} answers.")
            return
        self.compared = self.find_base() if whom in ("", "base") else whom
        self.output.note(f"{self.model} and {self.compared} answer. /compare off ends it.")
        if len(self.turns) >= 2:
            # The last question once more: that is what a person wants to see compared.
            del self.turns[-1]
            text = self.turns.pop()["content"]
            self.ask(text)

    def _save(self, file: str) -> None:
        if not file or not self.turns:
            self.output.note("/save FILE" if self.turns else "There is nothing to save yet.")
            return
        path = Path(file).expanduser()
        try:
            with path.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps({"messages": self._messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise TunefleetError.field(
                "FILE", f"{path} cannot be written: {error.strerror}.", hint="Name another file: /save FILE"
            ) from error
        self.output.note(f"{len(self._messages)} messages are a row of {path}.")

    def _help(self) -> None:
        for name, (argument, text) in COMMANDS.items():
            self.output.note(f"{f'{name} {argument}':<24}{text}")
        self.output.note("Ctrl-C stops an answer, Ctrl-D leaves.")
