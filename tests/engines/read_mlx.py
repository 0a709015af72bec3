"""Print what mlx-lm itself says it knows, as JSON. Run by a Python that has mlx-lm, with or without mlx.

    PYTHON-WITH-MLX-LM tests/engines/read_mlx.py

mlx-lm finds a model's module by its model type, and chooses the parser of tool calls by looking at the chat
template: both are folders of modules, read here without importing one.
"""

from __future__ import annotations

import ast
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def _folder() -> Path:
    spec = find_spec("mlx_lm")
    assert spec is not None, "mlx-lm is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _model_types(folder: Path) -> list[str]:
    """Return the modules that define a model, and the types that are read by another's module."""
    modules = {
        path.stem
        for path in (folder / "models").glob("*.py")
        if any(
            isinstance(item, ast.ClassDef) and item.name == "Model"
            for item in ast.parse(path.read_text()).body
        )
    }
    (remapped,) = (
        ast.literal_eval(item.value)
        for item in ast.parse((folder / "utils.py").read_text()).body
        if isinstance(item, ast.Assign) and getattr(item.targets[0], "id", "") == "MODEL_REMAPPING"
    )
    return sorted({*modules, *(name for name, module in remapped.items() if module in modules)})


def main() -> None:
    folder = _folder()
    found = {
        "engine": "mlx",
        "distribution": f"mlx-lm=={version('mlx-lm')}",
        "read_by": "ast",
        "tool_parsers": sorted(
            path.stem for path in (folder / "tool_parsers").glob("*.py") if path.stem != "__init__"
        ),
        "model_types": _model_types(folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
