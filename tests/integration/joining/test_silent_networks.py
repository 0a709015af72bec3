"""A network that falls silent, without an end of any connection, is noticed by both sides of it.

Nothing is written to a connection that is gone, so nothing fails: each side has to ask whether it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncGenerator

import aiohttp
import pytest
from aiohttp import web
from joined_fleet import JoinedFleet
from silent_wire import SilentWire

from tunefleet.fleet.v1.fleet_pb2 import ServiceState
from tunefleet_core.rpc import ListenerTls
from tunefleet_services.gateway.inference import serve_relays
from tunefleet_services.gateway.relays import RelayedRequest, RelayedResponse, Relays
from tunefleet_services.joining import join_fleet
from tunefleet_services.server.relay import Relay

pytestmark = pytest.mark.slow  # of waiting

_LIMIT_SECONDS = 60.0
"""Of each wait: far longer than noticing takes, far shorter than TCP keeps a connection that is gone."""


async def test_a_session_over_a_network_that_fell_silent_is_opened_anew(fleet: JoinedFleet) -> None:
    invitation = await fleet.invite("trainer", service="services/far")
    membership = await join_fleet(invitation, fleet.machine("far"), kind="trainer", name="far")
    record = membership.folder / "member.json"
    async with SilentWire.to(fleet.member_address) as wire:
        record.write_text(json.dumps({**json.loads(record.read_text()), "service_address": wire.address}))
        await fleet.start_member("far", "trainer")
        before = (await fleet.services())["far"].session_epoch

        async def has_attached_anew() -> bool:
            far = (await fleet.services())["far"]
            return far.session_epoch > before and far.state == ServiceState.SERVICE_STATE_ATTACHED

        wire.cut()
        await fleet.until(has_attached_anew, "the trainer has attached anew", _LIMIT_SECONDS)


@contextlib.asynccontextmanager
async def slow_engine() -> AsyncGenerator[str]:
    """Serve an answer whose first bytes come at once and whose end never does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_an_answer_that_a_silent_network_carried_breaks_off_and_the_next_comes(
    fleet: JoinedFleet,
) -> None:
    invitation = await fleet.invite("server", service="services/far")
    membership = await join_fleet(invitation, fleet.machine("far"), kind="server", name="far")
    authority = fleet.state / "authority"
    shown = ListenerTls.read(
        authority / "server.pem", authority / "server.key", client_authority=authority / "authority.pem"
    )
    relays = Relays()
    own = ssl.PEM_cert_to_DER_cert(membership.channel_tls().certificate.decode().partition("\n\n")[0])
    relays.admit_members({hashlib.sha256(own).hexdigest(): "far"})
    asked = RelayedRequest(address="relay://far/engine", path="/v1/chat/completions", headers={}, body=b"{}")

    async def first_piece() -> tuple[RelayedResponse, bytes]:
        async with asyncio.timeout(_LIMIT_SECONDS):
            while True:
                try:
                    answer = await relays.send(asked, connect_seconds=2.0, read_seconds=600.0)
                except aiohttp.ClientConnectionError:  # it does not listen yet, or not again yet
                    await asyncio.sleep(0.1)
                else:
                    return answer, await answer.readany()

    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with slow_engine() as engine, asyncio.TaskGroup() as group:
        serving = group.create_task(
            serve_relays(relays, "127.0.0.1:0", tls=shown, on_listening=listening.set_result)
        )
        async with SilentWire.to(await listening) as wire:
            relay = Relay(
                wire.address,
                server="far",
                token="",
                tls=membership.channel_tls,
                engine_address=lambda _: engine,
            )
            carrying = group.create_task(relay.run())
            answer, piece = await first_piece()
            assert piece == b"begun"
            wire.cut()
            with pytest.raises(aiohttp.ClientPayloadError):
                async with asyncio.timeout(_LIMIT_SECONDS):
                    await answer.readany()  # its client would wait for ten minutes
            again, piece = await first_piece()
            assert piece == b"begun"
            again.close()
            carrying.cancel()
        serving.cancel()
