"""`tunefleet datasets` and `tunefleet data check`: rows."""

from __future__ import annotations

import click

from tunefleet_cli.arguments import allow_missing_option, label_option, limit_option, name_argument
from tunefleet_cli.exit_codes import FAILED
from tunefleet_cli.invocation import Invocation, command_options

__all__ = ["check", "create_dataset", "delete_dataset", "get_dataset", "list_datasets"]


@click.command()
@limit_option("datasets")
@command_options
def list_datasets(invocation: Invocation, limit: int) -> None:
    """List datasets, newest first."""
    from tunefleet_cli.output.lists import DATASETS

    invocation.show_list(DATASETS, lambda client: client.datasets.list(limit=limit))


@click.command()
@name_argument("datasets")
@command_options
def get_dataset(invocation: Invocation, name: str) -> None:
    """Show a dataset."""
    from tunefleet_cli.output.sheets import show_dataset

    show_dataset(invocation.output(), invocation.ask(lambda client: client.datasets.get(name)))


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
@label_option("Set a label.")
@command_options
def create_dataset(invocation: Invocation, name: str, file: str, labels: dict[str, str]) -> None:
    """Send FILE, a JSONL file of messages, and keep it as NAME, if every row can be read.

    Jobs name it as datasets/NAME, wherever they run.
    """
    from tunefleet_client import short_name

    output = invocation.output()
    with output.transfer(f"Sending {file}", then="Its rows are read there") as progress:
        dataset = invocation.ask(
            lambda client: client.datasets.create(name, file, labels=labels, progress=progress)
        )
    short = short_name(dataset.name)
    rows = f"{dataset.rows:,} {'row' if dataset.rows == 1 else 'rows'}"
    output.result(
        dataset,
        name=short,
        text=f"Dataset {short} has {rows}. Jobs name it as datasets/{short}.",
        next_step=f"tunefleet data check datasets/{short} --model MODEL",
    )


@click.command()
@name_argument("datasets")
@allow_missing_option
@command_options
def delete_dataset(invocation: Invocation, name: str, allow_missing: bool) -> None:
    """Remove a dataset; jobs that were submitted with it keep their rows."""
    from tunefleet.dataset.v1.dataset_service_pb2 import DeleteDatasetResponse
    from tunefleet_client import short_name

    invocation.ask(lambda client: client.datasets.delete(name, allow_missing=allow_missing))
    short = short_name(name)
    text = f"Dataset {short} is removed."
    invocation.output().result(
        DeleteDatasetResponse(), name=short, text=text, next_step="tunefleet datasets list"
    )


@click.command()
@click.argument("file")
@click.option("--model", required=True, metavar="MODEL", help="The base: a folder, a Hub id or a model.")
@click.option("--revision", default="", metavar="REV", help="Hub revision.")
@click.option("--max-length", type=click.IntRange(0), default=0, metavar="N", help="Longest row in tokens.")
@click.option("--loss-on", type=click.Choice(["assistant", "all"]), default="assistant", show_default=True)
@click.option("--rows", type=click.IntRange(0), default=3, show_default=True, help="First rows to show.")
@command_options
def check(
    invocation: Invocation,
    file: str,
    model: str,
    revision: str,
    max_length: int,
    loss_on: str,
    rows: int,
) -> None:
    """Read FILE (or datasets/NAME) as training with MODEL would.

    Shows which tokens carry loss, rows without any, rows that are too long, and
    turns that would be served otherwise than trained. A wrong row is named by
    file, line and field. Exit code 1 if nothing would be trained.
    """
    import re
    from pathlib import Path

    from tunefleet.dataset.v1.dataset_service_pb2 import CheckRowsResponse
    from tunefleet.model.v1.model_pb2 import Model
    from tunefleet_cli.model_reference import model_reference
    from tunefleet_cli.output.audit import show_check
    from tunefleet_client import Client, NotFound

    if re.fullmatch(r"[a-z][a-z0-9-]*", file) and not Path(file).exists():
        file = f"datasets/{file}"  # as `datasets get NAME` takes it
    is_name = file.startswith(("datasets/", "projects/"))
    source = file if is_name else str(Path(file).expanduser().absolute())

    async def ask(client: Client) -> tuple[str, CheckRowsResponse]:
        base = model_reference(model)
        if base.startswith("models/"):
            # A trained adapter reads rows with the tokenizer and template of its base.
            base = (await trained(client, base)).base_model
        checked = await client.datasets.check(
            source, model=base, revision=revision, max_length=max_length, loss_on=loss_on
        )
        return base, checked

    async def trained(client: Client, name: str) -> Model:
        try:
            return await client.models.get(name)
        except NotFound as error:
            if not Path(model).is_dir():
                raise
            raise NotFound(
                error.reason,
                error.message,
                hint=f"For the folder of that name: --model ./{model}",
                metadata=error.metadata,
            ) from error

    base, response = invocation.ask(ask)
    output = invocation.output()
    show_check(output, response, source=source, model=base, rows=rows)
    if not response.audit.trained_tokens:
        if not output.is_json:
            output.failed("No token would be trained.", next_step="Check roles and the chat template.")
        raise click.exceptions.Exit(FAILED)
