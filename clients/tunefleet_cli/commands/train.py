"""`tunefleet train FILE`: submit a job file."""

from __future__ import annotations

import click

from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["train"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--follow", "-f", is_flag=True, help="Watch it to its end; Ctrl-C only detaches.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Change a field for this run.")
@click.option("--id", "job_id", metavar="ID", help="Id of the job (else its name and a short random end).")
@click.option("--mini", is_flag=True, help="Try the whole chain to a chat, on 100 rows in a minute or so.")
@command_options
def train(
    invocation: Invocation,
    file: str,
    follow: bool,
    overrides: tuple[str, ...],
    job_id: str | None,
    mini: bool,
) -> None:
    """Submit the job that FILE describes.

    Everything that FILE leaves open is decided now, with reasons; see it first
    with `tunefleet plan FILE`.
    """
    from tunefleet_cli.follow import follow_to_end
    from tunefleet_cli.overrides import read_job
    from tunefleet_client import short_name

    spec = read_job(file, overrides)
    if mini:
        from tunefleet_cli.mini import run_mini

        run_mini(invocation, spec, file=file, job_id=job_id)
        return
    job = invocation.ask(lambda client: client.jobs.create(spec, job_id=job_id))
    name = short_name(job.name)
    output = invocation.output()
    if follow:
        if not output.is_json:
            output.note(f"Job {name} is accepted.")
        follow_to_end(invocation, job.name)
        return
    output.result(job, name=name, text=f"Job {name} is accepted.", next_step=f"tunefleet jobs watch {name}")
