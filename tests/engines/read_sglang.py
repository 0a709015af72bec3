"""Print what SGLang itself says it knows, as JSON. Run by a Python that has it, with or without kernels.

    PYTHON-WITH-SGLANG tests/engines/read_sglang.py

SGLang imports its CUDA kernels early, so its lists of names are read from its source by `ast`. They are
literals: the two modules that hold parser names exist to be read without the rest. Only its options are asked
of its own parser, which comes without kernels.
"""

from __future__ import annotations

import argparse
import ast
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def _folder() -> Path:
    spec = find_spec("sglang")  # finds it, does not import it
    assert spec is not None, "sglang is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "srt"


def _assigned(path: Path, name: str) -> ast.expr | None:
    """Return what a module assigns to a name at its top level."""
    for statement in ast.parse(path.read_text()).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            assert isinstance(statement, ast.Assign)
            return statement.value
    return None


def _names(path: Path, name: str) -> list[str]:
    value = _assigned(path, name)
    assert value is not None, f"{path} no longer has {name}"
    return sorted(set(ast.literal_eval(value)))


def _architectures(models: Path) -> list[str]:
    """Return the classes that model modules enter, as SGLang's registry finds them."""
    found: set[str] = set()
    for path in models.glob("*.py"):
        entry = _assigned(path, "EntryClass")
        classes = entry.elts if isinstance(entry, ast.List | ast.Tuple) else [entry]
        found.update(item.id for item in classes if isinstance(item, ast.Name))
    return sorted(found)


def _options() -> list[str]:
    """Return the long options of the server's own parser, without dashes, those that deny one among them."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    found = {text for action in parser._actions for text in action.option_strings if text.startswith("--")}
    return sorted(text.removeprefix("--") for text in found - {"--help"})


def read() -> dict[str, object]:
    """Return what it says."""
    srt = _folder()
    return {
        "engine": "sglang",
        "distribution": f"sglang=={version('sglang')}",
        "read_by": "ast",
        "tool_parsers": _names(srt / "function_call" / "parser_names.py", "TOOL_CALL_PARSER_NAMES"),
        "reasoning_parsers": _names(srt / "parser" / "reasoning_parser_names.py", "REASONING_PARSER_NAMES"),
        "quantizations": _names(srt / "arg_groups" / "choices.py", "QUANTIZATION_CHOICES"),
        "architectures": _architectures(srt / "models"),
        "options": _options(),
    }


def main() -> None:
    print(json.dumps(read()))


if __name__ == "__main__":
    main()
