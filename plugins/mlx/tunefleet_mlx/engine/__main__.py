"""Starts the engine; see the package."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from tunefleet_core.backend import go_quiet_and_offline


def main() -> None:
    """Load the base, serve until SIGTERM or SIGINT."""
    options = _options()
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    go_quiet_and_offline()
    from mlx_lm.models.cache import LRUPromptCache

    from tunefleet_mlx.engine.batches import Batches
    from tunefleet_mlx.engine.http import Handler
    from tunefleet_mlx.engine.models import ServedModels

    template = options.chat_template.read_bytes().decode() if options.chat_template else ""
    models = ServedModels(
        options.model,
        name=options.served_name,
        template=template,
        device_kind=options.device,
        max_context=options.max_context,
        draft=options.draft_model,
        draft_tokens=options.draft_tokens,
    )
    batches = Batches(models, LRUPromptCache(models.cli_args.prompt_cache_size))
    batches.started.wait()
    if batches.failure is not None:
        print(f"{options.model} cannot be served: {batches.failure}", file=sys.stderr)
        os._exit(1)  # the thread that failed is no daemon's
    server = ThreadingHTTPServer((options.host, options.port), partial(Handler, batches))
    server.daemon_threads = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"READY http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever()
    os._exit(0)  # a forward of a large model cannot be interrupted; nothing here needs an orderly end


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tunefleet_mlx.engine", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base")
    parser.add_argument("--served-name", required=True, help="name that the base answers to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--chat-template", type=Path, help="file; without it the base's own")
    parser.add_argument("--max-context", type=int, default=0, help="tokens; 0: the model's own")
    parser.add_argument("--draft-model", type=Path, help="folder of a smaller model that guesses tokens")
    parser.add_argument("--draft-tokens", type=int, default=3, help="how many it guesses per step")
    parser.add_argument(
        "--device", choices=("cpu", "metal"), default="metal" if sys.platform == "darwin" else "cpu"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
