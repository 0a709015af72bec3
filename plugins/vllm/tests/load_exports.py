"""Load exports in vLLM and print how far it is from transformers on the same weights: one line of JSON each.

    python write_exports.py FOLDER            (the exporter's Python)
    python load_exports.py FOLDER [DTYPE]     (vLLM's Python)

`distance` is to the numbers in the export's own contract.json, in nats; `error` is vLLM's last word.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from vllm_lab import running  # noqa: E402  # found through the line above

from tunefleet.backend.v1.server_pb2 import EngineOrder  # noqa: E402
from tunefleet.deployment.v1.deployment_pb2 import ContractState  # noqa: E402
from tunefleet.type.v1.engine_pb2 import EngineSettings  # noqa: E402
from tunefleet_core.parity import read_contract  # noqa: E402
from tunefleet_services.server.contract_check import check_engine  # noqa: E402
from tunefleet_services.server.engine_http import EngineHttp  # noqa: E402


def loaded(folder: Path, work_dir: Path, dtype: str) -> dict[str, object]:
    """Return what vLLM makes of an export."""
    settings = EngineSettings(dtype=dtype)
    settings.options.update({"enforce-eager": True})
    order = EngineOrder(
        engine=folder.name,
        base_path=str(folder),
        served_name="base",
        work_dir=str(work_dir),
        device_ids=["cpu-0"],
        settings=settings,
    )
    started = time.monotonic()
    try:
        with running(order) as engine:
            ready = time.monotonic() - started
            question = check_engine(
                EngineHttp(engine.address), "base", read_contract(folder), served_dtype=dtype
            )
            found = asyncio.run(question).result
    except AssertionError:
        return {
            "format": folder.name,
            "dtype": dtype,
            "error": _last_word((work_dir / "engine.log").read_text()),
        }
    return {
        "format": folder.name,
        "dtype": dtype,
        "numbers": ContractState.Name(found.numbers),
        "distance": round(found.distance_to_tuned, 4),
        "distance_to_base": round(found.distance_to_base, 4),
        "seconds": round(ready),
    }


def _last_word(log: str) -> str:
    """Return the line of a log that names an error of Python: the last that is no other's echo."""
    found = re.findall(r"\b\w*(?:Error|Exception): .*", log)
    causes = [line for line in found if not re.search("initialization failed|EngineDead|Engine core", line)]
    return (causes or found or [log[-300:]])[-1]


def main() -> None:
    """Load each export of a folder."""
    folder, dtype = Path(sys.argv[1]), (*sys.argv[2:], "")[0]
    for export in sorted(path.parent for path in folder.glob("*/contract.json")):
        work = folder / "logs" / f"{export.name}-{dtype}"
        work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(loaded(export, work, dtype)), flush=True)


if __name__ == "__main__":
    main()
