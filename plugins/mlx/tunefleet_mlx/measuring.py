"""Load a model folder with mlx-lm as its server would, and say how it answers. A fresh process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity.measured_aside import tops_to_json
from tunefleet_core.worker.aside import serve_aside
from tunefleet_mlx.devices import compute_on
from tunefleet_mlx.reference_numbers import top_logprobs

__all__ = ["measure"]


def measure(folder: Path, prompts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return for each prompt `token_ids` and `logprobs` of the most likely next tokens, best first.

    Raises:
        TunefleetError: BASE_INVALID for a folder that mlx-lm cannot load.
    """
    import mlx_lm

    try:
        model = mlx_lm.load(str(folder))[0]
    except (ValueError, RuntimeError) as error:  # unknown class; missing, extra or damaged weights
        raise TunefleetError(
            Reason.BASE_INVALID,
            f"mlx-lm cannot load this model: {str(error).splitlines()[0]}",
            hint="Export in another format: tunefleet catalog formats",
            metadata={"path": str(folder)},
        ) from error
    return tops_to_json(top_logprobs(model, prompts))


def _work(task: Mapping[str, Any]) -> Mapping[str, object]:
    compute_on(task["device_kind"])
    return {"numbers": measure(Path(task["folder"]), task["prompts"])}


if __name__ == "__main__":
    serve_aside(_work)
