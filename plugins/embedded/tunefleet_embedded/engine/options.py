"""Command line of the engine."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What one engine process was asked to be."""

    model: Path
    host: str
    port: int
    served_name: str
    chat_template: str | None
    max_batch: int
    max_waiting: int
    max_context: int | None
    dtype: str
    device: str
    threads: int | None
    api_key: str | None


def parse_options(argv: list[str] | None = None) -> EngineOptions:
    """Parses the command line. Exits with status 2 and a sentence on a wrong one."""
    parser = _parser()
    given = parser.parse_args(argv)
    model = Path(given.model).expanduser()
    if not (model / "config.json").is_file():
        hint = "an adapter is not a base: give the base folder and load the adapter afterwards"
        reason = hint if (model / "adapter_config.json").is_file() else "give the folder of a saved model"
        parser.error(f"--model {model} has no config.json; {reason}.")
    template = None
    if given.chat_template is not None:
        try:
            template = Path(given.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            parser.error(f"--chat-template {given.chat_template} cannot be read: {error.strerror}.")
    api_key = None
    if given.api_key_env is not None:
        api_key = os.environ.get(given.api_key_env)
        if not api_key:
            parser.error(
                f"--api-key-env {given.api_key_env} is not set; export it with the key clients must send."
            )
    return EngineOptions(
        model=model,
        host=given.host,
        port=given.port,
        served_name=given.served_name or model.resolve().name,
        chat_template=template,
        max_batch=given.max_batch,
        max_waiting=given.max_waiting,
        max_context=given.max_context,
        dtype=given.dtype,
        device=given.device,
        threads=given.threads,
        api_key=api_key,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tunefleet_embedded.engine", description=__doc__)
    parser.add_argument(
        "--model", required=True, help="folder of the base model (config.json, *.safetensors, tokenizer)"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free port; the READY line names it")
    parser.add_argument(
        "--served-name", help="name of the base in /v1/models; the folder's name when left out"
    )
    parser.add_argument(
        "--chat-template", help="file with a jinja chat template to use instead of the tokenizer's"
    )
    parser.add_argument("--max-batch", type=_positive, default=32, help="rows decoded together")
    parser.add_argument(
        "--max-waiting", type=_positive, default=1024, help="choices that may wait; more answer 429"
    )
    parser.add_argument(
        "--max-context", type=_positive, help="tokens of prompt and answer; the model's own when left out"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "auto"), default="auto")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument(
        "--threads", type=_positive, help="torch threads; 1 for small models on CPU when left out"
    )
    parser.add_argument(
        "--api-key-env", metavar="VAR", help="environment variable with the key clients must send"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
