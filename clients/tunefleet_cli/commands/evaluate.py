"""`tunefleet eval MODEL DATA`: score a model on rows with known answers."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["evaluate"]

_METRICS = ("exact_match", "json_valid", "f1")


@click.command("eval")
@click.argument("model")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, resolve_path=True))
@click.option(
    "--examples",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="Rows put before every prompt.",
)
@click.option("--example-count", type=click.IntRange(1), metavar="N", help="How many of them (default 3).")
@click.option("--metric", "metrics", type=click.Choice(_METRICS), multiple=True, help="Only these.")
@click.option("--max-new-tokens", type=click.IntRange(1), metavar="N", help="Longest answer.")
@click.option("--backend", default="", metavar="NAME", help="Backend (else the best that fits).")
@command_options
def evaluate(
    invocation: Invocation,
    model: str,
    data: str,
    examples: str | None,
    example_count: int | None,
    metrics: tuple[str, ...],
    max_new_tokens: int | None,
    backend: str,
) -> None:
    """Score MODEL on DATA, a file of messages whose last turn is the right answer.

    MODEL is the name of a trained one, a folder, or a Hub id. Scores come with
    95 % intervals.
    """
    import re

    from tunefleet.job.v1.spec_pb2 import BaseModel, EvaluateSpec, JobSpec
    from tunefleet_cli.follow import follow_to_end
    from tunefleet_cli.model_reference import model_reference
    from tunefleet_client import short_name

    if example_count is not None and examples is None:
        raise click.UsageError("--example-count needs --examples.")
    reference = model_reference(model)
    slug = re.sub(r"[^a-z0-9]+", "-", short_name(reference).lower()).strip("-")
    spec = JobSpec(
        name=f"eval-{slug}"[:40].rstrip("-"),
        backend=backend,
        evaluate=EvaluateSpec(
            model=BaseModel(model=reference), data=data, examples=examples or "", metrics=metrics
        ),
    )
    if example_count is not None:
        spec.evaluate.example_count = example_count
    if max_new_tokens is not None:
        spec.evaluate.max_new_tokens = max_new_tokens

    job = invocation.ask(lambda client: client.jobs.create(spec))
    output = invocation.output()
    if not output.is_json:
        output.note(f"Job {short_name(job.name)} is accepted.")
    follow_to_end(invocation, job.name)
