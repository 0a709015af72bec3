"""Write a tiny model in quantisation formats, by the exporter as in any job: run by its environment's Python.

    python write_exports.py FOLDER [FORMAT or FORMAT/VARIANT ...]

Leaves FOLDER/FORMAT-VARIANT for each (all that the exporter writes if none is named), with the
contract.json that holds the rounded model's numbers, as transformers computes them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the model is tiny, the cores are shared
ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "plugins" / "compress" / "tests"))

import compress_lab as lab  # noqa: E402  # found through the line above

from tunefleet.backend.v1.rank_pb2 import RankCommand  # noqa: E402
from tunefleet.job.v1.event_pb2 import AttemptOutcome  # noqa: E402
from tunefleet_compress.recipes import FORMATS  # noqa: E402
from tunefleet_core.backend import go_quiet_and_offline  # noqa: E402
from tunefleet_core.errors import error_from_status  # noqa: E402
from tunefleet_core.worker.rank_process import RankProcess  # noqa: E402

_HIDDEN = 128  # four heads of 32: vLLM has no smaller ones on a CPU
_EXPORT_SECONDS = 300


async def _export(whole: Path, work: Path, form: str, variant: str) -> Path:
    rank = await RankProcess.spawn("tunefleet_compress.rank:CompressRank", warm=False)
    try:
        await rank.send(RankCommand(run=lab.order(whole, work, form, variant=variant)))
        async with asyncio.timeout(_EXPORT_SECONDS):
            while (report := await rank.next_report()) is not None and not report.HasField("end"):
                continue
    finally:
        await rank.end(grace_seconds=5)
    if report is None or report.end.outcome != AttemptOutcome.ATTEMPT_OUTCOME_SUCCEEDED:
        raise error_from_status(report.end.error) if report else SystemExit(f"{form}: the exporter died")
    return work / "output"


def main() -> None:
    """Train one model, export it in each format."""
    go_quiet_and_offline(TQDM_DISABLE="1")
    folder = Path(sys.argv[1])
    every = [f"{form}/{variant}" for form, variants in FORMATS.items() for variant in variants]
    whole = lab.trained_model(folder / "trained", hidden=_HIDDEN)
    for name in sys.argv[2:] or every:
        form, _, variant = name.partition("/")
        target = folder / f"{form}-{variant}".rstrip("-")
        asyncio.run(_export(whole, folder / f"{target.name}-run", form, variant)).rename(target)
        print(target.name, flush=True)


if __name__ == "__main__":
    main()
