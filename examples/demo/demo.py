"""Fine-tune, prove, serve, chat: the whole of tunefleet on one machine.

Run by `make demo`. Each step is a command of the terminal client, shown before it
runs; only the scores and the last questions go through the Python SDK and the
stock OpenAI client, as an application would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from tunefleet.job.v1.job_pb2 import Job
from tunefleet_client import connect

ROOT = Path(__file__).resolve().parents[2]
TICKETS = ROOT / "examples" / "tickets"
BASE = ROOT / "examples" / "tiny_base" / "model"
STATE = ROOT / ".state" / "demo"
ENVS = Path(os.environ.get("TUNEFLEET_ENVS") or ROOT / ".envs")
TUNEFLEET = (sys.executable, "-m", "tunefleet_cli")
STOP_LIMIT_SECONDS = 20
BASE_NAME = "tiny-base"

console = Console(highlight=False)


class DemoFailed(Exception):
    """A step did not do what it should; the message says which."""


def environment() -> dict[str, str]:
    """Return the environment of every command: its own state, one core per process."""
    return {
        **os.environ,
        "TUNEFLEET_STATE": str(STATE),
        "TUNEFLEET_ENVS": str(ENVS),
        "OMP_NUM_THREADS": "1",  # faster than two for models this small
    }


def step(number: int, text: str) -> None:
    """Begin a step on the screen."""
    console.print()
    console.print(Rule(f"[bold]{number}[/bold]  {text}", align="left", style="cyan"))


def run(*arguments: str | Path, quiet: bool = False) -> str:
    """Show a command and run it. `quiet` keeps its output and returns it."""
    words = [_short(str(argument)) for argument in arguments]
    console.print(f"[dim]$ tunefleet {shlex.join(words)}[/dim]")
    command = [*TUNEFLEET, *map(str, arguments)]
    result = subprocess.run(
        command, env=environment(), stdout=subprocess.PIPE if quiet else None, text=True, check=False
    )
    if result.returncode != 0:
        raise DemoFailed(f"`tunefleet {shlex.join(words)}` ended with exit code {result.returncode}.")
    return result.stdout or ""


@contextmanager
def fleet() -> Generator[None]:
    """Start the fleet, stop everything it started when the block ends."""
    STATE.mkdir(parents=True, exist_ok=True)
    console.print("[dim]$ tunefleet up &[/dim]")
    process = subprocess.Popen(
        [*TUNEFLEET, "up", "--plain"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C ends the demo, which then stops the fleet in order
    )
    assert process.stdout is not None  # a pipe, see above
    try:
        for line in process.stdout:
            console.print(f"  {_short(line.rstrip())}", markup=False)
            if "ready" in line:
                break
        if process.poll() is not None:
            raise DemoFailed("The fleet did not start; see the message above.")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def install_backends() -> None:
    """Make the environment of trainer and engine, once."""
    index = ENVS / "index.json"
    installed = json.loads(index.read_text())["environments"] if index.is_file() else {}
    for plugin in ("trl", "embedded"):
        if plugin not in installed:
            run("plugins", "install", plugin)
    console.print(f"  Backends ready: trl, embedded (in {_short(str(ENVS))})")


def job(name: str) -> Job:
    """Return a job through the SDK."""

    async def get() -> Job:
        async with connect(state_folder=STATE) as client:
            return await client.jobs.get(name)

    return asyncio.run(get())


def scores_of(name: str) -> dict[str, tuple[float, float, float]]:
    """Return metric -> (value, low, high) of an evaluation."""
    return {score.metric: (score.value, score.low, score.high) for score in job(name).result.scores}


def evaluate(model: str | Path, name: str, *options: str | Path) -> dict[str, tuple[float, float, float]]:
    """Score a model on the test rows."""
    output = run("eval", model, TICKETS / "test.jsonl", *options, "--json", quiet=True)
    resource = json.loads(output.strip().splitlines()[-1])["data"]["name"]
    scores = scores_of(resource)
    value, low, high = scores["exact_match"]
    console.print(f"  {name}: exact match [bold]{value:.2f}[/bold]  (95 %: {low:.2f} to {high:.2f})")
    return scores


def show_scores(rows: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """Show the three scores side by side."""
    table = Table(title="100 tickets that training never read", title_justify="left", title_style="bold")
    table.add_column("model")
    for metric in ("exact match", "valid JSON", "F1 of the fields"):
        table.add_column(metric, justify="right")
    for name, scores in rows.items():
        cells = (scores["exact_match"], scores["json_valid"], scores["f1"])
        table.add_row(name, *(f"{value:.2f}  [dim]{low:.2f}–{high:.2f}[/dim]" for value, low, high in cells))
    console.print(table)


def ask(model: str) -> None:
    """Ask two tickets of the test file through the stock OpenAI client."""
    endpoints = json.loads((STATE / "endpoints.json").read_text())
    token = (STATE / "admin.token").read_text().strip()
    client = OpenAI(base_url=f"{endpoints['gateway']}/v1", api_key=token, max_retries=0)
    for line in (TICKETS / "test.jsonl").read_text().splitlines()[:2]:
        *prompt, answer = json.loads(line)["messages"]
        for name in (BASE_NAME, model):
            reply = client.chat.completions.create(model=name, messages=prompt, temperature=0, max_tokens=64)
            content = (reply.choices[0].message.content or "").strip().splitlines() or [""]
            if name == BASE_NAME:
                console.print(f"  [bold]ticket[/bold]   {prompt[-1]['content']}")
                console.print(f"  base     [dim]{content[0]}[/dim]", highlight=False)
            else:
                mark = "[green]✓[/green]" if content[0] == answer["content"] else "[red]✗[/red]"
                console.print(f"  tuned {mark}  [bold]{content[0]}[/bold]")


def demo(seed: int) -> tuple[float, float]:
    """Run every step; return exact match of base and tuned."""
    name = f"tickets-{secrets.token_hex(2)}"
    job_file = TICKETS / "job.yaml"
    step(1, "Backends, each in an environment of its own")
    install_backends()
    step(2, "A fleet on this machine")
    with fleet():
        step(3, "The plan: what would run, and why")
        run("plan", job_file)
        step(4, "What the base can do")
        run("deploy", BASE, "--name", BASE_NAME)
        base = evaluate(BASE, "base")
        few = evaluate(BASE, "base with three examples in the prompt", "--examples", TICKETS / "train.jsonl")
        step(5, "Fine-tune a LoRA adapter")
        run("train", job_file, "--id", name, "--set", f"train.seed={seed}", "--follow")
        step(6, "What it learned")
        tuned = evaluate(f"models/{name}", "tuned")
        show_scores({"base": base, "base + 3 examples": few, "tuned": tuned})
        step(7, "Serve it: loaded only if it is what was trained, in tokens and in numbers")
        run("deploy", f"models/{name}", "--wait")
        step(8, "Chat with it, with the stock OpenAI client")
        ask(name)
        run("deployments", "delete", name)
        run("deployments", "delete", BASE_NAME)
    step(9, "Next")
    console.print("  tunefleet up                       start a fleet of your own and keep it")
    console.print("  tunefleet plan my-job.yaml         your rows: what is trained, what it needs")
    console.print("  tunefleet train my-job.yaml -f     examples/tickets/job.yaml is a template")
    console.print("  tunefleet doctor                   when something does not work")
    return base["exact_match"][0], tuned["exact_match"][0]


def _short(text: str) -> str:
    return text.replace(f"{ROOT}{os.sep}", "")


def main() -> None:
    """Run the demo and close with one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=42, help="seed of the training run")
    seed = parser.parse_args().seed
    # Counted from before the installation if make tells when it began.
    start = float(os.environ.get("DEMO_STARTED", time.time()))
    try:
        base, tuned = demo(seed)
    except DemoFailed as error:
        sys.exit(f"demo: {error} Logs: {_short(str(STATE))}/logs")
    except KeyboardInterrupt:
        sys.exit("\ndemo: stopped; everything it started is stopped too.")
    console.print()
    print(f"demo: base={base:.2f} tuned={tuned:.2f} wall={time.time() - start:.0f}s")


if __name__ == "__main__":
    main()
