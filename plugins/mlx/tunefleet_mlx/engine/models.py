"""What the engine answers for: the base, and adapters that share its weights.

mlx-lm's own provider keeps one model and loads base and adapter again whenever a request
names another. Here each adapter is a model of its own whose weights *are* the base's arrays,
with the adapter's layers around them: a name more costs the adapter alone.
"""

from __future__ import annotations

import itertools
import threading
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.server import ModelProvider
from mlx_lm.tokenizer_utils import load as load_tokenizer

from tunefleet_core.catalog import read_base
from tunefleet_mlx.adaptation import put_adapter_on
from tunefleet_mlx.adapter_files import read_peft
from tunefleet_mlx.devices import Hardware, compute_on
from tunefleet_mlx.engine.drafted import check_draft
from tunefleet_mlx.engine.refusal import Refusal
from tunefleet_mlx.loading import load_base, parameters_of

__all__ = ["Served", "ServedModels"]

_DEFAULT_CONTEXT = 4096
_SERVER_DEFAULTS = {
    "adapter_path": None, "draft_model": None, "trust_remote_code": False,
    "chat_template": "", "use_default_chat_template": False, "chat_template_args": {}, "pipeline": False,
    "temp": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 1,
    "decode_concurrency": 32, "prompt_concurrency": 8, "prefill_step_size": 2048,
    "prompt_cache_size": 10, "prompt_cache_bytes": None,
    "kv_bits": None, "kv_group_size": 64, "quantized_kv_start": 0, "allowed_origins": [],
}  # fmt: skip
"""What the classes of mlx_lm.server read of its command line; the temperature is OpenAI's default."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """A name of /v1/models. The key is never used again, so nothing kept under it can be another's."""

    name: str
    key: str
    folder: Path | None
    template: str
    stop_token_ids: tuple[int, ...]
    tokenizer: Any


class ServedModels(ModelProvider):
    """`add`, `find` and `remove` from any thread; `load` belongs to the thread that computes."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        template: str,
        device_kind: str,
        max_context: int,
        draft: Path | None = None,
        draft_tokens: int = 0,
    ) -> None:
        compute_on(device_kind)
        defaults = _SERVER_DEFAULTS | {"num_draft_tokens": draft_tokens}
        super().__init__(Namespace(model=str(folder), **defaults))
        self._draft = draft
        self.base = read_base(folder)
        self.max_context = max_context or self.base.max_positions or _DEFAULT_CONTEXT
        self._hardware = Hardware(kind=device_kind, dtype="bfloat16" if device_kind == "metal" else "float32")
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._base = self._make(name, None, template, ())
        self._served = {name: self._base}
        self._loaded: dict[str, Any] = {}

    @property
    def base_name(self) -> str:
        """Name that the base answers to."""
        return self._base.name

    def all(self) -> list[Served]:
        """Return what is served now."""
        with self._lock:
            return list(self._served.values())

    def find(self, name: object) -> Served:
        """Return what answers to a name. Raises Refusal 404: never the base in an adapter's place."""
        with self._lock:
            found = self._served.get(name) if isinstance(name, str) else None
        if found is None:
            known = ", ".join(f"'{item.name}'" for item in self.all())
            raise Refusal(404, f"There is no model '{name}' here; there is {known}.")
        return found

    def add(self, name: str, folder: Path, *, template: str, stop_token_ids: tuple[int, ...]) -> Served:
        """Serve an adapter in PEFT's form under a name; it is read with its first request."""
        made = self._make(name, folder, template or self._base.template, stop_token_ids)
        with self._lock:
            if name in self._served:
                raise Refusal(400, f"'{name}' is served already; unload it first.")
            self._served[name] = made
        return made

    def remove(self, name: str) -> None:
        """Take a name away; answers that are being written are finished. Raises Refusal 404."""
        served = self.find(name)
        if served is self._base:
            raise Refusal(400, f"'{name}' is the base and cannot be unloaded.")
        with self._lock:
            self._served.pop(name, None)

    def load_default(self) -> None:
        """Load the base, and the model that guesses for it and its adapters.

        Raises:
            ValueError: that one cannot.
        """
        model, tokenizer = self.load(self._base.key)
        if self._draft is not None:
            draft = load_base(read_base(self._draft), self._hardware)
            draft.eval()
            guessed = load_tokenizer(self._draft, {"trust_remote_code": False})
            check_draft(model, draft, tokenizer.get_vocab(), guessed.get_vocab())
            self.draft_model = draft

    def load(
        self, model_path: str, adapter_path: str | None = None, draft_model_path: str | None = None
    ) -> Any:
        """Return model and tokenizer of a key, and forget what is no longer served.

        Raises:
            TunefleetError: the adapter is none, or none that mlx-lm does faithfully.
        """
        live = {served.key: served for served in self.all()}
        served = live.get(model_path)
        if served is None:
            raise Refusal(404, "The model was unloaded before its turn came.")
        self._loaded = {key: model for key, model in self._loaded.items() if key in live}
        if served.key not in self._loaded:
            self._loaded[served.key] = self._model_of(served)
        self.model, self.tokenizer, self.model_key = self._loaded[served.key], served.tokenizer, served.key
        self.is_batchable = all(hasattr(part, "merge") for part in make_prompt_cache(self.model))
        return self.model, self.tokenizer

    def _model_of(self, served: Served) -> Any:
        import mlx.core as mx

        model = load_base(self.base, self._hardware, shared=self._loaded.get(self._base.key))
        if served.folder is not None:
            shape, arrays = read_peft(served.folder)
            put_adapter_on(model, list(shape.modules), rank=shape.rank, scale=shape.scale, dora=shape.dora)
            fitting = {name: value.shape for name, value in parameters_of(model).items()}
            for name, value in arrays.items():
                if fitting.get(name) != value.shape:
                    raise Refusal(400, f"'{name}' of the adapter does not fit this base: {value.shape}.")
            model.load_weights([(name, mx.contiguous(value)) for name, value in arrays.items()], strict=False)
        model.eval()
        mx.eval(model.parameters())
        return model

    def _make(self, name: str, folder: Path | None, template: str, stop_token_ids: tuple[int, ...]) -> Served:
        extra: dict[str, Any] = {"trust_remote_code": False}
        if template:
            extra["chat_template"] = template
        stops = sorted({*self.base.eos_token_ids, *stop_token_ids})
        return Served(
            name=name,
            key=f"{name}#{next(self._numbers)}",
            folder=folder,
            template=template,
            stop_token_ids=stop_token_ids,
            tokenizer=load_tokenizer(Path(self.base.path), extra, eos_token_ids=stops or None),
        )
