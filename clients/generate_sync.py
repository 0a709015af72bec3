"""Write the sync face of the SDK, `tunefleet_client/sync`, from the async modules.

    python clients/generate_sync.py            write
    python clients/generate_sync.py --check    fail if what is committed is stale

The source is read, not imported: signatures, annotations, defaults and docstrings
are carried over as they are written, and each body becomes one call of the twin.
A public method is a coroutine function, or returns an AsyncGenerator.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import difflib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "tunefleet_client"
TARGET = PACKAGE / "sync"
_BY_HAND = {"__init__.py", "session.py"}
_WORDS = (
    ("await ", ""),
    ("async with ", "with "),
    ("async for ", "for "),
    ("contextlib.aclosing", "contextlib.closing"),
)

_NOUN = '''"""{doc}

Sync face of `tunefleet_client.{module}`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from typing import Any

{imports}
from tunefleet_client import {module} as _async
from tunefleet_client.sync.session import Session

__all__ = ["{name}"]


class {name}:
    {class_doc}

    def __init__(self, session: Session[Any], inner: _async.{name}) -> None:
        self._session = session
        self._inner = inner

{methods}
'''

_CLIENT = '''"""{doc}

Sync face of `tunefleet_client.client`; written by clients/generate_sync.py.
"""

from __future__ import annotations

from typing import Self

{imports}
from tunefleet_client import client as _async
from tunefleet_client.sync.session import Session

__all__ = ["Client", "connect"]


class Client:
    """The nouns of one coordinator and project. Made by `connect`; close it, or use it as a context."""

    def __init__(self, session: Session[_async.Client]) -> None:
        self._session = session
        self._inner = session.inner
{attributes}

    def close(self) -> None:
        """End calls under way and let go of the coordinator. Closing twice is harmless."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

{methods}


{connect}
'''


@dataclass(slots=True)
class Source:
    """A module of the async client, parsed."""

    module: str
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict[str, str])
    """By bound name: the statement that binds it."""

    @classmethod
    def read(cls, module: str) -> Source:
        """Read `tunefleet_client/<module>.py`."""
        source = cls(module, ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                start = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    bound = f" as {alias.asname}" if alias.asname else ""
                    name = alias.asname or alias.name
                    source.imports[name] = f"{start}import {alias.name}{bound}"
        return source

    @property
    def doc(self) -> str:
        """First line of the module's docstring."""
        return (ast.get_docstring(self.tree) or "").splitlines()[0]

    def classes(self) -> Iterator[ast.ClassDef]:
        """Yield the public classes."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node

    def statement_for(self, name: str) -> str | None:
        """Return the import that a name needs elsewhere; None for a builtin."""
        if name in self.imports:
            return self.imports[name]
        if hasattr(builtins, name):
            return None
        return f"from tunefleet_client.{self.module} import {name}"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_public(node: ast.stmt) -> bool:
    """Return whether a member of a class is a public method."""
    return isinstance(node, Function) and not node.name.startswith("_")


def names_of(function: Function) -> set[str]:
    """Return the names that a signature uses."""
    arguments = function.args
    parts: list[ast.AST | None] = [
        *(item.annotation for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)),
        *arguments.defaults,
        *arguments.kw_defaults,
        function.returns,
    ]
    return {node.id for part in parts if part for node in ast.walk(part) if isinstance(node, ast.Name)}


def passed_on(function: Function) -> str:
    """Return the arguments of the call of the twin."""
    positional = [
        item.arg for item in (*function.args.posonlyargs, *function.args.args) if item.arg != "self"
    ]
    keywords = [f"{item.arg}={item.arg}" for item in function.args.kwonlyargs]
    return ", ".join((*positional, *keywords))


def docstring(node: ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef, indent: str) -> str:
    """Return a docstring as source, without the words of async code."""
    text = ast.get_docstring(node) or ""
    for word, instead in _WORDS:
        text = text.replace(word, instead)
    lines = text.splitlines()
    end = '"""' if len(lines) == 1 else f'\n{indent}"""'
    return '"""' + f"\n{indent}".join(lines) + end


def method(function: Function) -> str:
    """Return the sync twin of a method."""
    returns = ast.unparse(function.returns) if function.returns else "None"
    call = f"self._inner.{function.name}({passed_on(function)})"
    if returns.startswith("AsyncGenerator["):
        returns, call = returns.removeprefix("Async"), f"self._session.iterate({call})"
    elif isinstance(function, ast.AsyncFunctionDef):
        call = f"self._session.call({call})"
    else:
        sys.exit(f"{function.name}: neither a coroutine function nor an AsyncGenerator")
    return (
        f"    def {function.name}({ast.unparse(function.args)}) -> {returns}:\n"
        f"        {docstring(function, ' ' * 8)}\n"
        f"        return {call}\n"
    )


def methods(node: ast.ClassDef) -> list[Function]:
    """Return the public methods of a class."""
    return [item for item in node.body if isinstance(item, Function) and is_public(item)]


def imports(source: Source, functions: list[Function]) -> str:
    """Return the imports that the signatures need."""
    names = set[str]().union(*(names_of(function) for function in functions))
    if "AsyncGenerator" in names:
        names.remove("AsyncGenerator")
        source.imports["Generator"] = "from collections.abc import Generator"
        names.add("Generator")
    return "\n".join(sorted({line for name in names if (line := source.statement_for(name))}))


def noun(module: str, name: str) -> str:
    """Return the source of a noun's sync module."""
    source = Source.read(module)
    node = next(item for item in source.classes() if item.name == name)
    functions = methods(node)
    return _NOUN.format(
        doc=source.doc,
        module=module,
        name=name,
        imports=imports(source, functions),
        class_doc=docstring(node, " " * 4),
        methods="\n".join(method(function) for function in functions),
    )


def nouns(client: Source) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return the nouns of Client, attribute to (module, class), and its other attributes."""
    node = next(item for item in client.classes() if item.name == "Client")
    found: dict[str, tuple[str, str]] = {}
    plain: list[str] = []
    for statement in ast.walk(next(item for item in node.body if getattr(item, "name", "") == "__init__")):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Attribute):
            continue
        attribute = statement.targets[0].attr
        if isinstance(statement.value, ast.Call) and isinstance(statement.value.func, ast.Name):
            name = statement.value.func.id
            module = client.imports[name].split()[1].removeprefix("tunefleet_client.")
            found[attribute] = (module, name)
        elif not attribute.startswith("_"):
            plain.append(attribute)
    return found, plain


def client_module(client: Source) -> str:
    """Return the source of the sync client."""
    found, plain = nouns(client)
    node = next(item for item in client.classes() if item.name == "Client")
    connect = next(item for item in client.tree.body if getattr(item, "name", "") == "connect")
    assert isinstance(connect, ast.AsyncFunctionDef)
    connect.returns = None
    functions = [*methods(node), connect]
    lines = [f"self.{name} = self._inner.{name}" for name in plain]
    lines += [
        f"self.{attribute} = {name}(self._session, self._inner.{attribute})"
        for attribute, (_, name) in found.items()
    ]
    classes = {f"from tunefleet_client.sync.{module} import {name}" for module, name in found.values()}
    return _CLIENT.format(
        doc=client.doc,
        imports="\n".join([imports(client, functions), *sorted(classes)]),
        attributes="\n".join(f"        {line}" for line in lines),
        methods="\n".join(method(function) for function in methods(node)),
        connect=(
            f"def connect({ast.unparse(connect.args)}) -> Client:\n"
            f"    {docstring(connect, ' ' * 4)}\n"
            f"    return Client(Session(_async.connect({passed_on(connect)})))"
        ),
    )


def formatted(text: str, name: str) -> str:
    """Return source as the linter and formatter of the project leave it."""
    path = str(TARGET / name)
    for command in (["check", "--quiet", "--fix", "--select", "I,F401"], ["format", "--quiet"]):
        run = [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"]
        text = subprocess.run(run, input=text, capture_output=True, text=True, check=True).stdout
    return text


def generated() -> dict[str, str]:
    """Return every module of the sync face by file name."""
    client = Source.read("client")
    found, _ = nouns(client)
    modules = {f"{module}.py": noun(module, name) for module, name in found.values()}
    modules["client.py"] = client_module(client)
    return {name: formatted(text, name) for name, text in modules.items()}


def stale(modules: dict[str, str]) -> list[str]:
    """Return what differs between the modules and the files, as lines of a diff."""
    there = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.py")}
    lines: list[str] = []
    for name in sorted((there.keys() - _BY_HAND) | modules.keys()):
        old, new = there.get(name, ""), modules.get(name, "")
        lines += difflib.unified_diff(old.splitlines(), new.splitlines(), f"sync/{name}", lineterm="")
    return lines


def main() -> None:
    """Write the modules, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    modules = generated()
    if parser.parse_args().check:
        if lines := stale(modules):
            sys.exit("\n".join([*lines[:40], "The sync face is stale: python clients/generate_sync.py"]))
        return
    for name, text in modules.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    for path in TARGET.glob("*.py"):
        if path.name not in _BY_HAND and path.name not in modules:
            path.unlink()


if __name__ == "__main__":
    main()
