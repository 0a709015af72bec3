"""The names that can be asked for: the base and the adapters loaded at run time."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from tunefleet_embedded.engine.adapter_files import PromptFiles, read_adapter
from tunefleet_embedded.engine.chat import check_template
from tunefleet_embedded.engine.errors import AdapterRefused, ApiError, model_not_found
from tunefleet_embedded.engine.metrics import Metrics
from tunefleet_embedded.engine.model import BaseModel
from tunefleet_embedded.engine.runner import BatchRunner
from tunefleet_embedded.engine.scheduler import Scheduler

_LOAD_DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One name of /v1/models. `slot` is the adapter's name inside PEFT, None for the base.

    `virtual_tokens` of the context are taken by learned embeddings before every prompt.
    """

    name: str
    slot: str | None
    path: Path
    chat_template: str | None
    stop_ids: frozenset[int]
    virtual_tokens: int = 0


class ModelRegistry:
    """Belongs to the asyncio loop; model work goes through the scheduler."""

    def __init__(
        self,
        base: BaseModel,
        template: str | None,
        *,
        runner: BatchRunner,
        scheduler: Scheduler,
        metrics: Metrics,
    ) -> None:
        self._base = base
        self._runner = runner
        self._scheduler = scheduler
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._numbers = itertools.count()
        own = ServedModel(
            name=base.name, slot=None, path=base.folder, chat_template=template, stop_ids=base.stop_ids
        )
        self._models: dict[str, ServedModel] = {base.name: own}

    def find(self, name: str) -> ServedModel:
        """The model of that name. Raises ApiError 404 for any other: never the base in an adapter's place."""
        found = self._models.get(name)
        if found is None:
            raise model_not_found(name, list(self._models))
        return found

    def all(self) -> list[ServedModel]:
        return list(self._models.values())

    async def load(
        self, name: str, path: Path, *, chat_template: str | None, stop_token_ids: list[int] | None
    ) -> ServedModel:
        """Loads an adapter beside the others. The same name and folder again changes nothing.

        Raises:
            ApiError: 400, the name is taken or the adapter cannot be served; nothing has changed.
        """
        async with self._lock:
            wanted = self._wanted(name, path, chat_template, stop_token_ids)
            present = self._models.get(name)
            if present is not None:
                _check_same(present, wanted)
                return present
            if chat_template is not None:
                check_template(self._base, chat_template)
            slot = wanted.slot
            assert slot is not None
            try:
                files = await asyncio.to_thread(read_adapter, wanted.path, self._base.model)
                attached = self._scheduler.between_steps(lambda: self._runner.attach(slot, files))
                async with asyncio.timeout(_LOAD_DEADLINE_SECONDS):
                    await asyncio.wrap_future(attached)
            except AdapterRefused as error:
                raise ApiError(
                    f"Adapter '{name}' is refused: {error}", param="lora_path", code="adapter_refused"
                ) from error
            except (asyncio.CancelledError, TimeoutError):
                self._scheduler.retire(
                    slot
                )  # Nobody waits any more: a late attach must not stay behind nameless.
                raise
            if isinstance(files, PromptFiles):
                wanted = replace(wanted, virtual_tokens=files.embeddings.shape[0])
            self._models[name] = wanted
            self._metrics.adapters = len(self._models) - 1
            return wanted

    async def unload(self, name: str) -> None:
        """Takes the name away at once; answers already being written with it are finished first.

        Raises:
            ApiError: 404, no adapter of that name.
        """
        async with self._lock:
            found = self._models.get(name)
            if found is None or found.slot is None:
                adapters = [model.name for model in self._models.values() if model.slot is not None]
                raise model_not_found(name, adapters or ["(no adapter is loaded)"])
            del self._models[name]
            self._metrics.adapters = len(self._models) - 1
            self._scheduler.retire(found.slot)

    def _wanted(
        self, name: str, path: Path, chat_template: str | None, stop_token_ids: list[int] | None
    ) -> ServedModel:
        for token_id in stop_token_ids or ():
            if not 0 <= token_id < self._base.vocabulary:
                raise ApiError(
                    f"stop_token_ids: {token_id} is not in the vocabulary.", param="stop_token_ids"
                )
        own = self._models[self._base.name]
        return ServedModel(
            name=name,
            slot=f"slot{next(self._numbers)}",  # PEFT takes no dots in names, and a name may come again.
            path=path.expanduser().resolve(),
            chat_template=chat_template or own.chat_template,
            stop_ids=own.stop_ids | frozenset(stop_token_ids or ()),
        )


def _check_same(present: ServedModel, wanted: ServedModel) -> None:
    if present.slot is None:
        raise ApiError(
            f"'{present.name}' is the name of the base; load the adapter under another.", param="lora_name"
        )
    same = (present.path, present.chat_template, present.stop_ids) == (
        wanted.path,
        wanted.chat_template,
        wanted.stop_ids,
    )
    if not same:
        raise ApiError(
            f"An adapter named '{present.name}' is loaded from {present.path} with other settings; "
            "unload it first.",
            param="lora_name",
            code="adapter_name_taken",
        )
