"""Print how SGLang's own parser reads command lines. Run by a Python that has SGLang, kernels or not.

    PYTHON-WITH-SGLANG tests/engines/parse_sglang_options.py < COMMAND-LINES

Reads a list of lists of options as JSON; prints one object per list: the fields of `ServerArgs`, or
`refused` with what the parser said.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr
from typing import Any


def _parsed(argv: list[str]) -> dict[str, Any]:
    from sglang.srt.server_args import prepare_server_args

    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found = prepare_server_args(argv)
    except SystemExit:
        return {"refused": said.getvalue().splitlines()[-1]}
    fields = {name: getattr(found, name) for name in dir(found) if not name.startswith("_")}
    plain = (str, int, float, bool, list, type(None))
    return {name: value for name, value in fields.items() if isinstance(value, plain)}


def main() -> None:
    print(json.dumps([_parsed(argv) for argv in json.load(sys.stdin)], default=str))


if __name__ == "__main__":
    main()
