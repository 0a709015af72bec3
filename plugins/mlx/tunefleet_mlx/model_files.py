"""Write whole weights as the base is laid out: its own files, name by name, with other numbers.

mlx-lm keeps the names of most classes. Where it does not, its weights cannot be put back
faithfully, and that is said before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunefleet.model.v1.base_pb2 import BaseFacts
from tunefleet_core.artifacts import complete_model_folder
from tunefleet_core.errors import Reason, TunefleetError

__all__ = ["require_same_names", "write_model_folder"]

_INDEX = "model.safetensors.index.json"
_TIED = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_BUFFER = ".rotary_emb.inv_freq"


def require_same_names(base: BaseFacts, names: Collection[str]) -> None:
    """Refuse a base whose weights have other names in mlx-lm's model than in its files.

    Args:
        base: The base.
        names: Names of every parameter of the loaded model.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED naming the first such weight.
    """
    stored = {tensor.name for tensor in base.tensors if not tensor.name.endswith(_BUFFER)}
    if _TIED not in names:  # tied: one array under two names
        stored.discard(_TIED)
    strange = sorted(stored ^ set(names))
    if strange:
        raise TunefleetError(
            Reason.CAPABILITY_UNSUPPORTED,
            f"mlx-lm holds the weights of this class in another form ('{strange[0]}'), so whole weights "
            "cannot be written back as its files have them.",
            hint="Train an adapter, or choose another backend: tunefleet plugins list",
            metadata={"backend": "mlx", "capability": "FULL_FINE_TUNING", "weight": strange[0]},
        )


def write_model_folder(
    folder: Path, base: BaseFacts, weights: Mapping[str, Any], *, template: str, stops: Sequence[int]
) -> None:
    """Write a model into an existing, empty folder, as its base is laid out.

    Args:
        folder: Where to.
        base: The base; its folder must still be there.
        weights: Every parameter by name, in the number type it is to have.
        template: Jinja source of the chat template.
        stops: Token ids that end an answer.

    Raises:
        TunefleetError: CAPABILITY_UNSUPPORTED as `require_same_names`.
    """
    import mlx.core as mx

    require_same_names(base, weights)
    source = Path(base.path)
    dtypes: set[str] = set()
    for file in sorted(source.glob("*.safetensors")):
        names = mx.load(str(file))
        own = {name: _value(weights, name, stored) for name, stored in names.items()}
        dtypes |= {str(value.dtype).removeprefix("mlx.core.") for value in own.values()}
        mx.save_safetensors(str(folder / file.name), own, {"format": "pt"})
    if (source / _INDEX).is_file():
        _write_index(source / _INDEX, folder)
    dtype = min(dtypes - {"float32"}, default="float32")
    complete_model_folder(folder, base, dtype=dtype, template=template, stops=stops)


def _value(weights: Mapping[str, Any], name: str, stored: Any) -> Any:
    if name == _TIED and name not in weights:
        return weights[_EMBEDDING]
    return weights.get(name, stored)  # buffers, which are not trained, stay


def _write_index(index: Path, folder: Path) -> None:
    """Write where each weight lies; the sizes are those of the number type that was written."""
    content = json.loads(index.read_text(encoding="utf-8"))
    sizes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    content["metadata"] = {**content.get("metadata", {}), "total_size": sizes}
    (folder / index.name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
