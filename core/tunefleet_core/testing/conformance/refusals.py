"""Errors: what cannot be done is answered with its code and exactly one reason."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from tunefleet.backend.v1 import backend_service_pb2 as pb
from tunefleet.backend.v1.backend_pb2 import Capability
from tunefleet.backend.v1.run_pb2 import StopMode
from tunefleet.backend.v1.server_pb2 import AdapterOrder
from tunefleet.job.v1.resolved_pb2 import ResolvedSpec
from tunefleet_core.testing.conformance.bench import Bench
from tunefleet_core.testing.conformance.calls import Refused
from tunefleet_core.testing.conformance.cases import Suite, case
from tunefleet_core.testing.conformance.identity import TIMES
from tunefleet_core.testing.conformance.orders import REQUESTS

__all__ = ["Capabilities", "Errors"]

_TRAIN, _SERVE = Capability.CAPABILITY_TRAIN, Capability.CAPABILITY_SERVE
_HOTSWAP = Capability.CAPABILITY_LORA_HOTSWAP
_NOBODY = "nobody-knows-this"


class Errors(Suite):
    """Names that nobody knows, and requests in which something is missing."""

    @case(is_error=True)
    async def test_an_unknown_run_is_not_found(self, bench: Bench) -> None:
        await _refused(bench, "GetRun", pb.GetRunRequest(run=_NOBODY), "NOT_FOUND", "JOB_NOT_FOUND")

    @case(is_error=True)
    async def test_an_unknown_run_cannot_be_stopped(self, bench: Bench) -> None:
        for mode in (StopMode.STOP_MODE_CANCEL, StopMode.STOP_MODE_SAVE):
            request = pb.StopRunRequest(run=_NOBODY, mode=mode)
            await _refused(bench, "StopRun", request, "NOT_FOUND", "JOB_NOT_FOUND")

    @case(is_error=True)
    async def test_an_unknown_run_has_no_events(self, bench: Bench) -> None:
        with pytest.raises(Refused) as caught:
            await bench.events(_NOBODY)
        _is(caught.value, "NOT_FOUND", "JOB_NOT_FOUND")

    @case(_SERVE, is_error=True)
    async def test_an_unknown_engine_is_not_found(self, bench: Bench) -> None:
        request = pb.GetEngineRequest(engine=_NOBODY)
        await _refused(bench, "GetEngine", request, "NOT_FOUND", "DEPLOYMENT_NOT_FOUND")

    @case(_SERVE, is_error=True)
    async def test_an_unknown_engine_cannot_be_stopped(self, bench: Bench) -> None:
        request = pb.StopEngineRequest(engine=_NOBODY)
        await _refused(bench, "StopEngine", request, "NOT_FOUND", "DEPLOYMENT_NOT_FOUND")

    @case(_HOTSWAP, is_error=True)
    async def test_an_unknown_engine_takes_no_adapter(self, bench: Bench) -> None:
        order = AdapterOrder(engine=_NOBODY, adapter="a", path=str(bench.orders.adapter()))
        for method, request in (
            ("LoadAdapter", pb.LoadAdapterRequest(order=order)),
            ("UnloadAdapter", pb.UnloadAdapterRequest(engine=_NOBODY, adapter="a")),
        ):
            await _refused(bench, method, request, "NOT_FOUND", "DEPLOYMENT_NOT_FOUND")

    @case(_TRAIN, is_error=True)
    async def test_a_run_without_a_name_is_refused(self, bench: Bench) -> None:
        order = bench.orders.run()
        order.run = ""
        await _refused(
            bench, "StartRun", pb.StartRunRequest(order=order), "INVALID_ARGUMENT", "FIELD_INVALID"
        )

    @case(_TRAIN, is_error=True)
    async def test_a_run_without_a_folder_is_refused(self, bench: Bench) -> None:
        order = bench.orders.run()
        order.work_dir = ""
        await _refused(
            bench, "StartRun", pb.StartRunRequest(order=order), "INVALID_ARGUMENT", "FIELD_INVALID"
        )

    @case(_TRAIN, is_error=True)
    async def test_a_run_without_work_is_refused(self, bench: Bench) -> None:
        order = bench.orders.run(spec=ResolvedSpec())
        start = pb.StartRunRequest(order=order)
        await _refused(bench, "StartRun", start, "INVALID_ARGUMENT", "FIELD_INVALID")
        validate = pb.ValidateRunRequest(resolved_spec=order.resolved_spec)
        await _refused(bench, "ValidateRun", validate, "INVALID_ARGUMENT", "FIELD_INVALID")

    @case(_TRAIN, is_error=True)
    async def test_a_refused_run_does_not_exist(self, bench: Bench) -> None:
        order = bench.orders.run(spec=ResolvedSpec())
        await bench.refusal("StartRun", pb.StartRunRequest(order=order))
        request = pb.GetRunRequest(run=order.run)
        await _refused(bench, "GetRun", request, "NOT_FOUND", "JOB_NOT_FOUND")

    @case(_SERVE, is_error=True)
    async def test_an_engine_without_a_name_or_a_folder_is_refused(self, bench: Bench) -> None:
        for field in ("engine", "work_dir"):
            order = bench.orders.engine()
            order.ClearField(field)
            request = pb.StartEngineRequest(order=order)
            await _refused(bench, "StartEngine", request, "INVALID_ARGUMENT", "FIELD_INVALID")

    @case(is_error=True)
    async def test_a_refusal_is_the_same_every_time(self, bench: Bench) -> None:
        answers = [await bench.refusal("GetRun", pb.GetRunRequest(run=_NOBODY)) for _ in range(TIMES)]
        assert {(item.code, item.message, *item.reasons) for item in answers} == {
            (answers[0].code, answers[0].message, *answers[0].reasons)
        }

    @case(is_error=True)
    async def test_after_refusals_it_still_answers(self, bench: Bench) -> None:
        for _ in range(TIMES):
            await bench.refusal("StopRun", pb.StopRunRequest(run=_NOBODY))
        assert (await bench.call("GetBackend", pb.GetBackendRequest())).manifest.name


class Capabilities(Suite):
    """Both ways: what is declared is taken, what is not is refused as unsupported."""

    @case(is_error=True)
    async def test_capability_train(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_TRAIN)

    @case(is_error=True)
    async def test_capability_sft(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_SFT)

    @case(is_error=True)
    async def test_capability_lora(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_LORA)

    @case(is_error=True)
    async def test_capability_full_fine_tuning(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_FULL_FINE_TUNING)

    @case(is_error=True)
    async def test_capability_qlora_nf4(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_QLORA_NF4)

    @case(is_error=True)
    async def test_capability_rslora(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_RSLORA)

    @case(is_error=True)
    async def test_capability_dora(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_DORA)

    @case(is_error=True)
    async def test_capability_expert_lora(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_EXPERT_LORA)

    @case(is_error=True)
    async def test_capability_prompt_tuning(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_PROMPT_TUNING)

    @case(is_error=True)
    async def test_capability_evaluate(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_EVALUATE)

    @case(is_error=True)
    async def test_capability_merge(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_MERGE)

    @case(is_error=True)
    async def test_capability_quantize(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_QUANTIZE)

    @case(is_error=True)
    async def test_capability_samples(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_SAMPLES)

    @case(is_error=True)
    async def test_capability_best_checkpoint(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_BEST_CHECKPOINT)

    @case(is_error=True)
    async def test_capability_timed_checkpoints(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_TIMED_CHECKPOINTS)

    @case(is_error=True)
    async def test_capability_rollback(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_ROLLBACK)

    @case(_TRAIN, is_error=True)
    async def test_several_devices_are_taken_or_refused(self, bench: Bench) -> None:
        spec = bench.orders.train()
        spec.spec.resources.devices = 2
        if "sft" in bench.manifest.distributed_methods:
            await bench.call("ValidateRun", pb.ValidateRunRequest(resolved_spec=spec))
            return
        await _unsupported(bench, "ValidateRun", pb.ValidateRunRequest(resolved_spec=spec))
        await _unsupported(bench, "StartRun", pb.StartRunRequest(order=bench.orders.run(spec=spec)))

    @case(is_error=True)
    async def test_capability_general_set(self, bench: Bench) -> None:
        await _asked(bench, Capability.CAPABILITY_GENERAL_SET)

    @case(is_error=True)
    async def test_capability_inspect(self, bench: Bench) -> None:
        if not bench.has(Capability.CAPABILITY_INSPECT):
            await _unsupported(bench, "AuditData", pb.AuditDataRequest(order=bench.orders.audit()))

    @case(is_error=True)
    async def test_capability_serve(self, bench: Bench) -> None:
        if not bench.has(_SERVE):
            await _unsupported(bench, "StartEngine", pb.StartEngineRequest(order=bench.orders.engine()))

    @case(is_error=True)
    async def test_capability_checkpoint_on_request(self, bench: Bench) -> None:
        if not bench.has(Capability.CAPABILITY_CHECKPOINT_ON_REQUEST):
            await _unsupported(bench, "SaveRun", pb.SaveRunRequest(run=_NOBODY, number=1))

    @case(is_error=True)
    async def test_capability_lora_hotswap(self, bench: Bench) -> None:
        order = AdapterOrder(engine=_NOBODY, adapter="a", path=str(bench.orders.adapter()))
        if not bench.has(_HOTSWAP):
            await _unsupported(bench, "LoadAdapter", pb.LoadAdapterRequest(order=order))


async def _asked(bench: Bench, capability: Capability.ValueType) -> None:
    spec = REQUESTS[capability](bench.orders)
    validate = pb.ValidateRunRequest(resolved_spec=spec)
    if bench.has(capability):
        await bench.call("ValidateRun", validate)
        return
    await _unsupported(bench, "ValidateRun", validate)
    await _unsupported(bench, "StartRun", pb.StartRunRequest(order=bench.orders.run(spec=spec)))


async def _unsupported(bench: Bench, method: str, request: Message) -> None:
    await _refused(bench, method, request, "UNIMPLEMENTED", "CAPABILITY_UNSUPPORTED")


async def _refused(bench: Bench, method: str, request: Message, *expected: str) -> None:
    _is(await bench.refusal(method, request), *expected)


def _is(refused: Refused, code: str, reason: str) -> None:
    assert (refused.code, refused.reasons) == (code, [reason]), refused
    assert refused.message.strip(), "the error says nothing"
