"""Failures have the class of their code, and a call is made again only where that is safe."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

import tunefleet_client
from tunefleet.job.v1.job_pb2 import Job
from tunefleet.job.v1.job_service_pb2 import CancelJobRequest, GetJobRequest
from tunefleet_client import Client, Unavailable, connect
from tunefleet_client.calls import Backoff
from tunefleet_client.errors import ERROR_CLASSES, failure, typed
from tunefleet_client.testing import FakeCoordinator
from tunefleet_core.errors import FieldViolation, Reason, TunefleetError, code_of

QUICK = Backoff(first_seconds=0.001, most_seconds=0.002)
NAME = "projects/default/jobs/a"


def test_every_code_has_a_class_of_its_name_that_the_package_exports() -> None:
    for reason in Reason:
        kind = ERROR_CLASSES[code_of(reason)]
        assert kind.__name__ == code_of(reason).title().replace("_", "")
        assert getattr(tunefleet_client, kind.__name__) is kind
        assert issubclass(kind, TunefleetError)
        assert kind.__doc__
    assert len(set(ERROR_CLASSES.values())) == len(ERROR_CLASSES)


def test_a_typed_error_keeps_everything() -> None:
    plain = TunefleetError(
        Reason.DATA_INVALID,
        "Row 3.",
        hint="Correct it.",
        metadata={"line": "3"},
        violations=[FieldViolation(field="f", description="d")],
    )
    error = typed(plain)
    assert type(error) is tunefleet_client.InvalidArgument
    assert (error.reason, error.message, error.hint) == (plain.reason, plain.message, plain.hint)
    assert (error.metadata, error.violations) == (plain.metadata, plain.violations)
    assert typed(error) is error
    assert "Next step: Correct it." in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("reason", Reason)
async def test_an_answer_is_raised_as_the_class_of_its_code(fake: FakeCoordinator, reason: Reason) -> None:
    fake.error = TunefleetError(reason, "No.", hint="Do this.")
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        with pytest.raises(ERROR_CLASSES[code_of(reason)]) as caught:
            await client.jobs.get("a")
    assert (caught.value.reason, caught.value.hint) == (reason, "Do this.")
    # Only the reason that means "ask again" is asked again; an answer is an answer.
    assert len(fake.requests) == (QUICK.tries if reason is Reason.UNAVAILABLE else 1)


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_a_read_outlives_a_server_that_fails_n_times(fake: FakeCoordinator, failures: int) -> None:
    fake.jobs[NAME] = Job(name=NAME)
    fake.unavailable_calls = failures
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        assert (await client.jobs.get("a")).name == NAME
    assert len(fake.requests) == failures + 1


async def test_a_change_without_a_request_id_is_not_repeated(fake: FakeCoordinator) -> None:
    fake.jobs[NAME] = Job(name=NAME)
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        connection, stub = client.jobs._connection, client.jobs._stub
        fake.unavailable_calls = 1
        with pytest.raises(Unavailable):
            await connection.unary(stub.CancelJob, CancelJobRequest(name=NAME))
        assert len(fake.requests) == 1
        fake.unavailable_calls = 1
        await connection.unary(stub.CancelJob, CancelJobRequest(name=NAME, request_id="mine"))
        fake.unavailable_calls = 1
        await connection.unary(stub.GetJob, GetJobRequest(name=NAME))
    assert len(fake.requests) == 5


async def test_a_chat_is_not_repeated(fake: FakeCoordinator) -> None:
    fake.add_gateway()
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        await client.fleet.list()
        fake.requests.clear()
        await client.inference._find()
        fake.unavailable_calls = 1
        fake.requests.clear()
        async with aclosing(client.chat("m", "hello")) as pieces:
            with pytest.raises(Unavailable):
                await anext(pieces)
    assert len(fake.requests) == 1


async def test_tries_end_at_the_deadline(fake: FakeCoordinator) -> None:
    fake.unavailable_calls = 1_000_000
    patient = Backoff(first_seconds=0.02, most_seconds=0.02, tries=1_000_000)
    async with connect(fake.address, fake.token, backoff=patient) as client:
        jobs = client.jobs
        async with asyncio.timeout(20):
            with pytest.raises(TunefleetError):
                await jobs._connection.unary(
                    jobs._stub.GetJob, GetJobRequest(name=NAME), deadline_seconds=0.3
                )
    assert 2 <= len(fake.requests) <= 31


def test_waits_double_up_to_a_bound_and_are_jittered() -> None:
    low, high = Backoff(random=lambda: 0.0), Backoff(random=lambda: 1.0)
    assert [high.seconds(n) for n in (1, 2, 3, 100)] == [0.1, 0.2, 0.4, 2.0]
    assert [low.seconds(n) for n in (1, 2, 3, 100)] == [0.05, 0.1, 0.2, 1.0]


async def test_a_wrong_address_says_what_to_do() -> None:
    async with FakeCoordinator() as gone:
        address = gone.address
    async with connect(address, "token", backoff=QUICK) as client:
        with pytest.raises(Unavailable) as caught:
            await client.jobs.list()
    assert address in caught.value.message
    assert "tunefleet up" in caught.value.hint


async def test_a_wrong_token_says_what_to_do(fake: FakeCoordinator) -> None:
    async with connect(fake.address, "wrong") as client:
        with pytest.raises(tunefleet_client.Unauthenticated) as caught:
            await client.jobs.list()
    assert "TUNEFLEET_TOKEN" in caught.value.hint


async def test_a_file_that_is_no_certificate_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("hello")
    with pytest.raises(tunefleet_client.InvalidArgument) as caught:
        async with connect("127.0.0.1:1", "token", ca=path):
            raise AssertionError("must not connect")
    assert "no certificate" in caught.value.message
    assert "PEM" in caught.value.hint


async def test_a_peer_without_the_expected_certificate_says_what_to_do(
    fake: FakeCoordinator, certificate: Path
) -> None:
    """A TLS client at a plain server is told so at once."""
    async with connect(fake.address, fake.token, ca=certificate, backoff=QUICK) as client:
        with pytest.raises(Unavailable) as caught:
            await client.jobs.list()
    assert "not with TLS" in caught.value.message
    assert "TUNEFLEET_CA" in caught.value.hint
    assert fake.requests == []


async def test_a_plain_client_at_a_server_with_tls_says_what_to_do(other_certificate: Path) -> None:
    fake = FakeCoordinator(certificate=other_certificate)
    async with fake, connect(fake.address, fake.token, backoff=QUICK) as client:
        with pytest.raises(Unavailable, match="speaks TLS") as caught:
            await client.jobs.list()
    assert "tunefleet login" in caught.value.hint


async def test_a_server_with_another_certificate_is_not_trusted(
    certificate: Path, other_certificate: Path
) -> None:
    fake = FakeCoordinator(certificate=other_certificate)
    async with fake:
        async with connect(fake.address, fake.token, ca=other_certificate) as client:
            assert await client.jobs.list() == ()
        async with connect(fake.address, fake.token, ca=certificate, backoff=QUICK) as client:
            with pytest.raises(Unavailable) as caught:
                await client.jobs.list()
            async with asyncio.timeout(20):  # a watch does not wait for it to be mended
                with pytest.raises(Unavailable, match="certificate"):
                    await anext(client.jobs.watch("a"))
    assert "not with a certificate that is trusted here" in caught.value.message
    assert "TUNEFLEET_CA" in caught.value.hint


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "jobs.create": lambda client: client.jobs.create(JOB),
    "jobs.plan": lambda client: client.jobs.plan(JOB),
    "jobs.get": lambda client: client.jobs.get("a"),
    "jobs.list": lambda client: client.jobs.list(),
    "jobs.cancel": lambda client: client.jobs.cancel("a"),
    "jobs.checkpoint": lambda client: client.jobs.checkpoint("a"),
    "jobs.pause": lambda client: client.jobs.pause("a"),
    "jobs.resume": lambda client: client.jobs.resume("a"),
    "jobs.retry": lambda client: client.jobs.retry("a"),
    "jobs.update": lambda client: client.jobs.update("a", priority=1),
    "jobs.wait": lambda client: client.jobs.wait("a"),
    "jobs.delete": lambda client: client.jobs.delete("a"),
    "jobs.diagnose": lambda client: client.jobs.diagnose("a"),
    "jobs.checkpoints": lambda client: client.jobs.checkpoints("a"),
    "models.get": lambda client: client.models.get("a"),
    "models.list": lambda client: client.models.list(),
    "models.delete": lambda client: client.models.delete("a"),
    "deployments.create": lambda client: client.deployments.create("models/m"),
    "deployments.wait": lambda client: client.deployments.wait("a"),
    "deployments.get": lambda client: client.deployments.get("a"),
    "deployments.list": lambda client: client.deployments.list(),
    "deployments.delete": lambda client: client.deployments.delete("a"),
    "deployments.roll_out": lambda client: client.deployments.roll_out("a", "models/m"),
    "deployments.rollout": lambda client: client.deployments.rollout("a"),
    "deployments.scale": lambda client: client.deployments.scale("a", 2),
    "deployments.promote": lambda client: client.deployments.promote("a"),
    "deployments.roll_back": lambda client: client.deployments.roll_back("a"),
    "fleet.info": lambda client: client.fleet.info(),
    "fleet.get": lambda client: client.fleet.get("a"),
    "fleet.list": lambda client: client.fleet.list(),
    "fleet.drain": lambda client: client.fleet.drain("a"),
    "fleet.undrain": lambda client: client.fleet.undrain("a"),
    "fleet.remove": lambda client: client.fleet.remove("a"),
    "tokens.create": lambda client: client.tokens.create("a"),
    "tokens.list": lambda client: client.tokens.list(),
    "tokens.revoke": lambda client: client.tokens.revoke("a"),
    "datasets.get": lambda client: client.datasets.get("a"),
    "datasets.list": lambda client: client.datasets.list(),
    "datasets.delete": lambda client: client.datasets.delete("a"),
    "datasets.check": lambda client: client.datasets.check("datasets/a", model="x/y"),
    "datasets.create": lambda client: client.datasets.create("a", __file__),
    "artifacts.manifest": lambda client: client.artifacts.manifest("0" * 64),
    "artifacts.prune": lambda client: client.artifacts.prune(),
    "catalog.plugins": lambda client: client.catalog.plugins(),
    "catalog.backends": lambda client: client.catalog.backends(),
    "catalog.families": lambda client: client.catalog.families(),
    "catalog.formats": lambda client: client.catalog.formats(),
    "catalog.combinations": lambda client: client.catalog.combinations(),
    "inference.tokenize": lambda client: client.inference.tokenize("m", text="a"),
    "inference.chat": lambda client: anext(client.inference.chat("m", "a")),
}
JOB = {"name": "a", "train": {"base": {"model": "x/y"}, "data": {"train": [{"source": "a.jsonl"}]}}}


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_has_a_deadline(fake: FakeCoordinator, call: str) -> None:
    fake.add_gateway()
    async with connect(fake.address, fake.token, backoff=QUICK) as client:
        await client.inference._find()
        fake.error = failure(Reason.INTERNAL, "Enough.")
        with pytest.raises(TunefleetError, match="Enough"):
            await CALLS[call](client)
    left = fake.deadlines[-1]
    assert left is not None
    assert left <= 601  # gRPC rounds up


def test_no_method_was_forgotten_above() -> None:
    """Transfers are bounded by their steps, not as a whole; they have tests of their own."""
    from tunefleet_client.artifacts import Artifacts
    from tunefleet_client.catalog import Catalog
    from tunefleet_client.datasets import Datasets
    from tunefleet_client.deployments import Deployments
    from tunefleet_client.fleet import Fleet
    from tunefleet_client.inference import Inference
    from tunefleet_client.jobs import Jobs
    from tunefleet_client.models import Models
    from tunefleet_client.tokens import Tokens

    nouns = {
        "jobs": Jobs,
        "models": Models,
        "deployments": Deployments,
        "fleet": Fleet,
        "catalog": Catalog,
        "inference": Inference,
        "tokens": Tokens,
        "datasets": Datasets,
        "artifacts": Artifacts,
    }
    there = {
        f"{noun}.{name}" for noun, kind in nouns.items() for name in vars(kind) if not name.startswith("_")
    }
    # A watch follows for as long as there is something to follow.
    assert there - CALLS.keys() == {"jobs.watch", "deployments.watch", "artifacts.fetch"}
