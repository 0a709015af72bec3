"""Services of other machines join over TLS, work by certificates, and are refused what is not theirs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import uuid
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from chaos_fleet import echo_job
from joined_fleet import JoinedFleet

from tunefleet.artifact.v1 import artifact_service_pb2_grpc as artifact_grpc
from tunefleet.artifact.v1.artifact_service_pb2 import CommitManifestRequest
from tunefleet.deployment.v1.deployment_pb2 import DeploymentSpec, DeploymentState
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.fleet.v1.fleet_pb2 import DeploymentStatus, Service, ServiceKind, ServiceState
from tunefleet.fleet.v1.fleet_service_pb2 import AttachRequest, Hello, ReportEventsRequest
from tunefleet.inference.v1.relay_service_pb2 import ListenRequest
from tunefleet.inference.v1.relay_service_pb2_grpc import RelayServiceStub
from tunefleet_core import CONTRACT_VERSION
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.invitations import Invitation, InvitationKind
from tunefleet_core.rpc import ChannelTls, error_from_rpc, open_channel
from tunefleet_services.joining import Membership, join_fleet

BASE = Path(__file__).parents[3] / "examples" / "tiny_base" / "model"


async def refused(asked: Awaitable[object]) -> TunefleetError:
    """Return what a call was refused with; every refusal says what to do."""
    try:
        await asked
    except TunefleetError as error:
        known = error
    except grpc.aio.AioRpcError as error:
        known = error_from_rpc(error, "The coordinator")
    else:
        raise AssertionError("it was allowed")
    assert known.hint
    return known


def attach(channel: grpc.aio.Channel, service: Service, *held: DeploymentStatus) -> Awaitable[object]:
    """Attach as a service and return the first answer."""
    hello = Hello(service=service, contract_versions=[CONTRACT_VERSION], deployments=held)

    async def ask() -> object:
        call = fleet_grpc.FleetServiceStub(channel).Attach()
        await call.write(AttachRequest(hello=hello))
        if (answer := await call.read()) is grpc.aio.EOF:
            await call  # raises why
            code, trailing = await call.code(), await call.trailing_metadata()
            raise grpc.aio.AioRpcError(
                code, await call.initial_metadata(), trailing, details=await call.details()
            )
        return answer

    return ask()


async def test_a_trainer_of_another_machine_trains_and_outlives_restarts(fleet: JoinedFleet) -> None:
    await fleet.start_blobs()
    await fleet.start_member("far", "trainer", await fleet.invite("trainer"))
    folder = fleet.machine("far") / "members" / "far"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    commands = [line for _, line in fleet.processes()]
    assert not any("tfjoin1" in line or "--join" in line for line in commands), commands
    async with fleet.client() as client:
        job = await client.jobs.create(echo_job(steps=150, every_steps=20, step_seconds=0.03))
        run = await fleet.run_begun(job, trainer="far")
        await fleet.kill("far")
        await fleet.start_member("far", "trainer")  # without a token
        await fleet.kill("coordinator")
        await fleet.start_coordinator()
        await fleet.kill("blobs")
        await fleet.start_blobs()
        ended, events = await fleet.finish(client, job.name)
        await fleet.assert_succeeded(ended, events)
        assert run.folder.is_relative_to(fleet.machine("far"))
        assert not list(fleet.machine("far").glob("artifacts/**/*")), "its artifacts are in the fleet's store"
        # Its adapter comes down to a client over TLS, and each file is checked by its digest.
        await client.artifacts.fetch(ended.result.manifest_digest, fleet.root / "fetched")
        assert (fleet.root / "fetched" / "state.json").exists()
        # A removal ends its certificate: at once for the session, and the process with it.
        await client.fleet.remove("services/far")
        assert "services/far" not in [item.name for item in await client.fleet.list()]
        assert await fleet.exit_code("far") == 1
        assert "was removed" in fleet.log("far")
    tls = Membership(folder).channel_tls()
    async with open_channel(fleet.member_address, tls) as channel:
        service = Service(name="services/far", kind=ServiceKind.SERVICE_KIND_TRAINER)
        error = await refused(attach(channel, service))
        assert error.reason is Reason.CERTIFICATE_INVALID
        assert "revoked" in error.message


async def test_a_server_of_another_machine_serves_by_a_relay(fleet: JoinedFleet) -> None:
    await fleet.start_blobs()
    await fleet.start_gateway()
    await fleet.start_member("far", "server", await fleet.invite("server", service="services/far"))
    async with fleet.client() as client:
        spec = DeploymentSpec(model=str(BASE), engine="echo")
        created = await client.deployments.create(spec, deployment_id="told")

        async def is_ready() -> bool:
            found = await client.deployments.get(created.name)
            assert found.state != DeploymentState.DEPLOYMENT_STATE_FAILED, found.error
            return found.state == DeploymentState.DEPLOYMENT_STATE_READY

        async def answers() -> str:
            messages = [{"role": "user", "content": "say it again"}]
            return "".join([part.text async for part in client.chat("told", messages)])

        async def is_answered() -> bool:
            try:
                return "say it again" in await answers()
            except TunefleetError:  # the gateway has not heard of it yet
                return False

        await fleet.until(is_ready, "the far engine is ready")
        assert (await client.deployments.get(created.name)).engine_address.startswith("relay://far/")
        await fleet.until(is_answered, "the far engine answers")

        async def is_lost() -> bool:
            return (await fleet.services())["far"].state == ServiceState.SERVICE_STATE_LOST

        os.kill(fleet.pid("far"), signal.SIGSTOP)  # as if its network were gone for longer than a lease
        await fleet.until(is_lost, "its server is lost")
        os.kill(fleet.pid("far"), signal.SIGCONT)
        await fleet.until(is_answered, "it answers again, by the engine that went on meanwhile")
        await fleet.kill("far")
        await fleet.start_member("far", "server")
        await fleet.until(is_answered, "it answers again after its server was killed")
        await fleet.kill("gateway")
        await fleet.start_gateway()
        await fleet.until(is_answered, "it answers again after the gateway was killed")
        await client.deployments.delete(created.name)
        await fleet.until(
            lambda: not list(fleet.machine("far").glob("services/*/engines/*/engine.json")), "no engine"
        )

    # The door for relays takes its own name alone, and nobody without a certificate that counts.
    tls = Membership(fleet.machine("far") / "members" / "far").channel_tls()
    relay = f"localhost:{fleet.gateway_ports[2]}"
    async with open_channel(relay, tls) as channel:
        listening = RelayServiceStub(channel).Listen(ListenRequest(server="other"))
        assert (await refused(listening.read())).reason is Reason.PERMISSION_DENIED
    async with open_channel(relay, ChannelTls(authority=tls.authority)) as channel:
        listening = RelayServiceStub(channel).Listen(ListenRequest(server="far"))
        assert (await refused(listening.read())).reason is Reason.UNAVAILABLE
    async with fleet.client() as client:
        await fleet.stop("far")
        await client.fleet.remove("services/far")
    async with open_channel(relay, tls) as channel:

        async def is_revoked() -> bool:
            listening = RelayServiceStub(channel).Listen(ListenRequest(server="far"))
            return (await refused(listening.read())).reason is Reason.CERTIFICATE_INVALID

        await fleet.until(is_revoked, "the gateway has heard of the removal")


async def test_a_join_is_refused_that_is_late_spent_foreign_or_of_a_stolen_name(
    fleet: JoinedFleet, tmp_path: Path
) -> None:
    async def join(invitation: object, name: str, kind: str = "trainer", machine: str = "") -> Membership:
        return await join_fleet(invitation, tmp_path / (machine or name), kind=kind, name=name)  # pyright: ignore[reportArgumentType]

    late = await fleet.invite("trainer", seconds=0.2)
    await asyncio.sleep(0.3)
    error = await refused(join(late, "late"))
    assert (error.reason, "its time is over" in error.message) == (Reason.TOKEN_INVALID, True)

    once = await fleet.invite("trainer")
    first = await join(once, "one")
    again = await join(once, "one")  # the same key: an answer that was lost costs no second token
    assert again.channel_tls().key == first.channel_tls().key
    error = await refused(join(once, "two"))
    assert (error.reason, "used up" in error.message) == (Reason.TOKEN_INVALID, True)

    error = await refused(join(await fleet.invite("trainer"), "one", machine="thief"))
    assert error.reason is Reason.SERVICE_EXISTS

    error = await refused(join(await fleet.invite("trainer"), "three", "server"))
    assert error.reason is Reason.PERMISSION_DENIED
    bound = await fleet.invite("trainer", service="services/four")
    assert (await refused(join(bound, "five"))).reason is Reason.PERMISSION_DENIED

    secret = (await fleet.invite("trainer")).secret
    foreign = replace(once, secret=secret, authority=_foreign_authority(tmp_path))
    error = await refused(join(foreign, "six"))
    assert (error.reason, "not with a certificate that is trusted" in error.message) == (
        Reason.UNAVAILABLE,
        True,
    )

    async with fleet.client() as client:
        made = await client.join_tokens.create("trainer", join_token_id="gone")
        assert [item.name for item in await client.join_tokens.list()] != []
        await client.join_tokens.revoke("gone")
        error = await refused(join(replace(once, secret=made.secret), "seven"))
        assert error.reason is Reason.TOKEN_INVALID
        token = await client.tokens.create("ada", role="user", ttl=timedelta(hours=1))
    stub = fleet_grpc.FleetServiceStub
    async with open_channel(fleet.user_address, ChannelTls(authority=once.authority)) as channel:
        from tunefleet.fleet.v1.fleet_service_pb2 import CreateJoinTokenRequest

        request = CreateJoinTokenRequest(kind=ServiceKind.SERVICE_KIND_TRAINER)
        asked = stub(channel).CreateJoinToken(
            request, metadata=(("authorization", f"Bearer {token.secret}"),), timeout=10
        )
        assert (await refused(asked)).reason is Reason.PERMISSION_DENIED
    assert secret not in fleet.log("coordinator")


async def test_strings_that_programs_read_join_and_log_in(fleet: JoinedFleet, tmp_path: Path) -> None:
    async def ask(*words: str, **variables: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tunefleet_cli", *words, "--json"),
            env={**fleet.environment, **variables},
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(told)["data"] if told else None  # `login` tells nothing

    own = {
        "TUNEFLEET_ADDRESS": fleet.user_address,
        "TUNEFLEET_TOKEN": fleet.token("admin"),
        "TUNEFLEET_CA": str(fleet.authority),
    }
    made = await ask("fleet", "tokens", "create", "--kind", "trainer", "--name", "far", **own)
    invitation = Invitation.read(made["join_string"], InvitationKind.JOIN)
    assert (invitation.secret, invitation.service) == (made["secret"], "far")
    await join_fleet(invitation, tmp_path / "far", kind="trainer", name="far")

    made = await ask("tokens", "create", "reader", "--role", "viewer", **own)
    elsewhere = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    await ask("login", made["login_string"], **elsewhere)
    assert (await ask("fleet", "list", **elsewhere))["services"] == []


async def test_a_service_speaks_for_itself_alone(fleet: JoinedFleet, tmp_path: Path) -> None:
    trainer, server = [
        await join_fleet(await fleet.invite(kind), tmp_path / kind, kind=kind, name=kind)
        for kind in ("trainer", "server")
    ]
    own = ServiceKind.SERVICE_KIND_TRAINER
    async with open_channel(fleet.member_address, trainer.channel_tls()) as channel:
        for stolen in ("services/server", "services/nobody"):
            error = await refused(attach(channel, Service(name=stolen, kind=own)))
            assert error.reason is Reason.PERMISSION_DENIED
        as_server = Service(name="services/trainer", kind=ServiceKind.SERVICE_KIND_SERVER)
        assert (await refused(attach(channel, as_server))).reason is Reason.PERMISSION_DENIED
        assert await attach(channel, Service(name="services/trainer", kind=own))

        async with fleet.client() as client:
            await fleet.start_trainer("local")
            job = await client.jobs.create(echo_job(steps=400, step_seconds=0.05))
            run = await fleet.run_begun(job, trainer="local")
            fleet_stub = fleet_grpc.FleetServiceStub(channel)
            events = ReportEventsRequest(job_uid=job.uid, attempt=1, fencing_number=1)
            error = await refused(fleet_stub.ReportEvents(events, timeout=10))
            assert (error.reason, "services/local" in error.message) == (Reason.PERMISSION_DENIED, True)
            commit = CommitManifestRequest(
                request_id=str(uuid.uuid4()), job_uid=job.uid, attempt=1, fencing_number=1
            )
            artifact_stub = artifact_grpc.ArtifactServiceStub(channel)
            error = await refused(artifact_stub.CommitManifest(commit, timeout=10))
            assert error.reason is Reason.PERMISSION_DENIED
            assert run.pids()
            await client.jobs.cancel(job.name)
            await fleet.finish(client, job.name)
        # The token of the coordinator's machine opens nothing here, and no other door takes a certificate.
        from tunefleet.job.v1.job_service_pb2 import ListJobsRequest
        from tunefleet.job.v1.job_service_pb2_grpc import JobServiceStub

        listed = JobServiceStub(channel).ListJobs(
            ListJobsRequest(parent="projects/default"), metadata=fleet.bearer("admin"), timeout=10
        )
        assert (await refused(listed)).reason in (Reason.CAPABILITY_UNSUPPORTED, Reason.PERMISSION_DENIED)
    async with open_channel(fleet.member_address, server.channel_tls()) as channel:
        elsewhere = DeploymentStatus(deployment_uid="x", engine_address="http://127.0.0.1:22")
        itself = Service(name="services/server", kind=ServiceKind.SERVICE_KIND_SERVER)
        error = await refused(attach(channel, itself, elsewhere))
        assert (error.reason, "relay" in error.message) == (Reason.PERMISSION_DENIED, True)


async def test_a_certificate_is_renewed_and_the_work_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="TLS needs cryptography: pip install 'tunefleet[tls]'")
    fleet = JoinedFleet(tmp_path, certificate_seconds=6.0)
    try:
        await fleet.start_coordinator()
        await fleet.start_blobs()
        await fleet.start_member("far", "trainer", await fleet.invite("trainer"))
        file = fleet.machine("far") / "members" / "far" / "certificate.pem"
        before = file.read_text()
        async with fleet.client() as client:
            job = await client.jobs.create(echo_job(steps=160, every_steps=10, step_seconds=0.05))
            ended, events = await fleet.finish(client, job.name)
            await fleet.assert_succeeded(ended, events)
            assert ended.attempt == 1
        assert file.read_text() != before
    finally:
        await fleet.close()


def _foreign_authority(folder: Path) -> bytes:
    from tunefleet_coordinator.security.authority import Authority

    return Authority.open(folder / "foreign").pem
