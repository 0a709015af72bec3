"""API tokens, asked of a real coordinator: what they open, for how long, and what is kept of them."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from chaos_fleet import ChaosFleet
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tunefleet.fleet.v1 import fleet_service_pb2 as pb
from tunefleet.fleet.v1 import fleet_service_pb2_grpc as fleet_grpc
from tunefleet.job.v1 import job_service_pb2 as job_pb
from tunefleet.job.v1 import job_service_pb2_grpc as job_grpc
from tunefleet_coordinator.security import Principal, Role, StoredTokenBook, TokenBook, token_digest
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.rpc import error_from_rpc, open_channel

_Metadata = tuple[tuple[str, str], ...]


class Desk:
    """The token methods, with one token."""

    def __init__(self, channel: grpc.aio.Channel, metadata: _Metadata) -> None:
        self.channel = channel
        self.metadata = metadata
        self._fleet: Any = fleet_grpc.FleetServiceStub(channel)
        self._jobs: Any = job_grpc.JobServiceStub(channel)

    def holding(self, secret: str) -> Desk:
        return Desk(self.channel, (("authorization", f"Bearer {secret}"),))

    async def create(self, token_id: str, role: str = "user", **fields: Any) -> pb.CreateTokenResponse:
        request = pb.CreateTokenRequest(token_id=token_id, role=role, **fields)
        return await self._ask(self._fleet.CreateToken, request)

    async def revoke(self, token_id: str, **fields: Any) -> None:
        await self._ask(self._fleet.RevokeToken, pb.RevokeTokenRequest(name=f"tokens/{token_id}", **fields))

    async def list(self, **fields: Any) -> pb.ListTokensResponse:
        return await self._ask(self._fleet.ListTokens, pb.ListTokensRequest(**fields))

    async def whoami(self) -> tuple[str, str]:
        told = await self._ask(self._fleet.GetFleet, pb.GetFleetRequest())
        return told.principal, told.role

    async def jobs(self, project: str) -> None:
        await self._ask(self._jobs.ListJobs, job_pb.ListJobsRequest(parent=f"projects/{project}"))

    async def _ask(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, metadata=self.metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "The coordinator") from error


@asynccontextmanager
async def admin_desk(fleet: ChaosFleet) -> AsyncGenerator[Desk]:
    async with open_channel(fleet.user_address) as channel:
        yield Desk(channel, fleet.bearer("admin"))


async def refused(asked: Any) -> Reason:
    with pytest.raises(TunefleetError) as raised:
        await asked
    assert raised.value.hint
    return raised.value.reason


async def test_token_opens_what_its_role_and_project_allow(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        made = await admin.create("ada", "user", project="research")
        assert (made.token.name, made.token.role, made.token.project) == ("tokens/ada", "user", "research")
        assert made.token.creator == "admin"
        ada = admin.holding(made.secret)
        assert await ada.whoami() == ("ada", "user")
        await ada.jobs("research")
        assert await refused(ada.jobs("default")) is Reason.PERMISSION_DENIED
        assert await refused(ada.create("bob")) is Reason.PERMISSION_DENIED
        viewer = admin.holding((await admin.create("vera", "viewer")).secret)
        await viewer.jobs("default")
        assert await refused(viewer.list()) is Reason.PERMISSION_DENIED


async def test_admin_of_one_project_reaches_only_its_tokens(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        await admin.create("other")
        bound = admin.holding((await admin.create("lead", "admin", project="research")).secret)
        await bound.create("mine", project="research")
        assert [token.name for token in (await bound.list()).tokens] == ["tokens/lead", "tokens/mine"]
        assert await refused(bound.create("wide")) is Reason.PERMISSION_DENIED
        assert await refused(bound.create("elsewhere", project="default")) is Reason.PERMISSION_DENIED
        assert await refused(bound.revoke("other")) is Reason.TOKEN_NOT_FOUND
        await bound.revoke("mine")
        pages = await admin.list(page_size=1)
        rest = await admin.list(page_token=pages.next_page_token)
        assert [token.name for token in (*pages.tokens, *rest.tokens)] == ["tokens/lead", "tokens/other"]


async def test_secret_is_told_once_and_never_kept(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        request_id = str(uuid.uuid4())
        made = await admin.create("ada", request_id=request_id)
        again = await admin.create("ada", request_id=request_id)
        assert made.secret
        assert (again.secret, again.token) == ("", made.token)
        assert await refused(admin.create("bob", request_id=request_id)) is Reason.REQUEST_ID_REUSED
        assert await refused(admin.create("ada")) is Reason.TOKEN_EXISTS
        assert await refused(admin.create("admin")) is Reason.TOKEN_EXISTS
    await fleet.stop("coordinator")
    for path in fleet.state.rglob("*"):
        if path.is_file() and path.suffix != ".token":
            assert made.secret.encode() not in path.read_bytes(), path
    assert made.secret not in fleet.log("coordinator")


async def test_revoked_token_opens_nothing_and_its_streams_end(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        secret = (await admin.create("ada")).secret
        ada = admin.holding(secret)
        stub: Any = health_pb2_grpc.HealthStub(admin.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), metadata=ada.metadata)
        await watch.read()
        other = stub.Watch(health_pb2.HealthCheckRequest(), metadata=admin.metadata)
        await other.read()

        await admin.revoke("ada")

        assert await refused(ada.whoami()) is Reason.TOKEN_INVALID
        async with asyncio.timeout(30):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await watch.read()
        assert error_from_rpc(raised.value, "it").reason is Reason.TOKEN_INVALID
        assert not other.done()  # the stream of another token goes on
        other.cancel()
        assert await refused(admin.revoke("ada")) is Reason.TOKEN_NOT_FOUND
        await admin.revoke("ada", allow_missing=True)
        await admin.create("ada")  # the id is free again
        assert await refused(ada.whoami()) is Reason.TOKEN_INVALID


async def test_token_ends_with_its_time_and_survives_the_coordinator(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        short = admin.holding((await admin.create("short", ttl=Duration(seconds=1))).secret)
        long = await admin.create("long", ttl=Duration(seconds=3600))
        assert long.token.expire_time.seconds - long.token.create_time.seconds == 3600

        async def is_over() -> bool:
            try:
                await short.whoami()
            except TunefleetError as error:
                return error.reason is Reason.TOKEN_INVALID
            return False

        await fleet.until(is_over, "the token's time is over")
        assert [token.name for token in (await admin.list()).tokens] == ["tokens/long"]
    await fleet.kill("coordinator")
    await fleet.start_coordinator()
    async with admin_desk(fleet) as admin:
        assert await admin.holding(long.secret).whoami() == ("long", "user")
        assert await refused(admin.holding("tf_wrong").whoami()) is Reason.TOKEN_INVALID


async def test_another_process_reads_the_tokens_from_the_store(fleet: ChaosFleet) -> None:
    book = await asyncio.to_thread(StoredTokenBook.of_state_folder, fleet.state)
    try:
        async with admin_desk(fleet) as admin:
            admin_token = book.find(fleet.token("admin"))
            assert admin_token is not None
            assert admin_token.role is Role.ADMIN
            secret = (await admin.create("ada", "viewer", project="research")).secret
            found = book.find(secret)
            assert found is not None
            assert (found.name, found.role, found.project) == ("ada", Role.VIEWER, "research")
            await admin.revoke("ada")
            assert book.find(secret) is None
            assert book.find("") is None
    finally:
        book.close()


async def test_bad_tokens_are_not_made(fleet: ChaosFleet) -> None:
    async with admin_desk(fleet) as admin:
        for asked in (
            admin.create("Not An Id"),
            admin.create("ada", "service"),
            admin.create("ada", ""),
            admin.create("ada", project="Not A Project"),
            admin.create("ada", ttl=Duration(seconds=-1)),
            admin.create("ada", ttl=Duration()),
            admin.create("ada", ttl=Duration(seconds=1 << 40)),
            admin.create("ada", request_id="no-uuid"),
        ):
            assert await refused(asked) is Reason.FIELD_INVALID
        assert not (await admin.list()).tokens


def test_store_that_cannot_be_read_is_no_unknown_token(tmp_path: Any) -> None:
    book = StoredTokenBook(tmp_path / "coordinator.db", {})
    with pytest.raises(TunefleetError) as raised:
        book.find("tf_anything")
    assert raised.value.reason is Reason.UNAVAILABLE
    with sqlite3.connect(tmp_path / "coordinator.db") as connection:
        connection.execute("CREATE TABLE tokens (token_id, digest, role, project, expire_time)")
    connection.close()
    assert book.find("tf_anything") is None
    book.close()


def test_token_book_looks_at_the_clock() -> None:
    now = 10.0
    book = TokenBook(
        {token_digest("t"): Principal(name="t", role=Role.USER, expire_time=20.0)}, clock=lambda: now
    )
    assert book.find("t") is not None
    assert len(book.users()) == 1
    now = 20.0
    assert book.find("t") is None
    assert book.users() == []
