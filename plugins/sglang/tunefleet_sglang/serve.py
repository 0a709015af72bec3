"""Starts SGLang with its own options, and `front` before its HTTP application.

    python -m tunefleet_sglang.serve --model-path FOLDER ...

What `python -m sglang.launch_server` does, and one line more.
"""

from __future__ import annotations

import os
import sys

from tunefleet_sglang.front import Front


def main() -> None:
    """Serve until the process is ended."""
    from sglang.launch_server import run_server
    from sglang.srt.entrypoints import http_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    def names() -> tuple[str, frozenset[str]]:
        manager = http_server.get_global_state().tokenizer_manager
        return manager.served_model_name, frozenset(manager.lora_registry.get_all_adapters())

    load_plugins()
    options = prepare_server_args(sys.argv[1:])
    http_server.app.add_middleware(Front, names=names)
    try:
        run_server(options)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
