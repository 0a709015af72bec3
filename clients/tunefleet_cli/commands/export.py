"""`tunefleet export MODEL`: write a trained model in another form."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["export"]

_DTYPES = ("float32", "bfloat16", "float16")


@click.command("export")
@click.argument("model")
@click.option("--format", "form", metavar="NAME", help="Quantisation format, such as gptq (else merge only).")
@click.option("--variant", default="", metavar="NAME", help="Variant of the format, such as q4_k_m of gguf.")
@click.option("--calibration-rows", type=click.IntRange(1), metavar="N", help="Training rows that calibrate.")
@click.option("--dtype", type=click.Choice(_DTYPES), help="Number type of merged weights (else the base's).")
@click.option("--backend", default="", metavar="NAME", help="Backend (else the one that writes the format).")
@click.option("--id", "job_id", metavar="ID", help="Id of the job and of the model that it makes.")
@click.option("--follow", "-f", is_flag=True, help="Watch it to its end; Ctrl-C only detaches.")
@command_options
def export(
    invocation: Invocation,
    model: str,
    form: str | None,
    variant: str,
    calibration_rows: int | None,
    dtype: str | None,
    backend: str,
    job_id: str | None,
    follow: bool,
) -> None:
    """Write MODEL as whole weights, or in a quantisation format.

    An adapter is merged into its base first. What was written is loaded again and
    must answer as before, within what the format may cost.
    """
    import re

    from tunefleet.job.v1.spec_pb2 import JobSpec
    from tunefleet_cli.follow import follow_to_end
    from tunefleet_client import short_name

    for option, is_given in (("--variant", bool(variant)), ("--calibration-rows", bool(calibration_rows))):
        if is_given and not form:
            raise click.UsageError(f"{option} needs --format.")
    if dtype and form:
        raise click.UsageError("--dtype is for merging; a format has its own number type.")
    name = short_name(model)
    stem = re.sub(r"[^a-z0-9]+", "-", f"{name}-{form or 'merged'}".lower()).strip("-")
    spec = JobSpec(name=stem[:40].rstrip("-"), backend=backend)
    spec.export.model.model = model if model.startswith(("models/", "projects/")) else f"models/{model}"
    if form:
        spec.export.quantize.format, spec.export.quantize.variant = form, variant
        if calibration_rows:
            spec.export.quantize.calibration_rows = calibration_rows
    else:
        spec.export.merge.dtype = dtype or ""

    job = invocation.ask(lambda client: client.jobs.create(spec, job_id=job_id))
    name, output = short_name(job.name), invocation.output()
    if follow:
        if not output.is_json:
            output.note(f"Job {name} is accepted.")
        follow_to_end(invocation, job.name)
        return
    output.result(job, name=name, text=f"Job {name} is accepted.", next_step=f"tunefleet jobs watch {name}")
