"""Where a job's options put what its run keeps in memory: whole on a device, divided, or off it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from tunefleet.backend.v1.backend_pb2 import BackendManifest, HeadTiles, MemoryPart, MemoryPlacement
from tunefleet.job.v1.spec_pb2 import JobSpec

__all__ = ["MemoryLayout", "memory_layout", "memory_placement"]

WEIGHTS = MemoryPart.MEMORY_PART_WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """What is where: the placements that hold for a job, put together.

    Attributes:
        devices: Devices of the run.
        divided: Parts of which each device keeps its share.
        on_host: Parts that the host keeps instead.
        on_disk: Parts that a disk keeps instead.
        gathers_layers: Weights come together a layer at a time, not a matrix.
        copies_values: The optimiser has values of its own beside weights in float32.
        head_tiles: The head of the model is computed so; None: whole.
        on_processor: The run is on a processor, whose dropout masks are of the number type of what they mask.
    """

    devices: int = 1
    divided: frozenset[MemoryPart.ValueType] = frozenset()
    on_host: frozenset[MemoryPart.ValueType] = frozenset()
    on_disk: frozenset[MemoryPart.ValueType] = frozenset()
    gathers_layers: bool = False
    copies_values: bool = False
    head_tiles: HeadTiles | None = None
    on_processor: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether every device keeps all that its run keeps."""
        return not (self.divided or self.on_host or self.on_disk)

    @property
    def gathers(self) -> bool:
        """Whether a device puts weights together before it computes with them."""
        is_divided = WEIGHTS in self.divided and self.devices > 1
        return is_divided or WEIGHTS in self.on_host | self.on_disk

    def on_device(self, part: MemoryPart.ValueType, size: int) -> int:
        """Return the bytes that one device keeps of a part of so many."""
        if part in self.on_host | self.on_disk:
            return 0
        return -(-size // self.devices) if part in self.divided else size


def memory_placement(
    *,
    option: str,
    value: str,
    is_default: bool = False,
    divided: Iterable[MemoryPart.ValueType] = (),
    moved: Iterable[MemoryPart.ValueType] = (),
    is_on_disk: bool = False,
    gathers_layers: bool = False,
    copies_values: bool = False,
) -> MemoryPlacement:
    """Build what an option does to memory; see the message."""
    return MemoryPlacement(
        option=option,
        value=value,
        is_default=is_default,
        divided=sorted(divided),
        moved=sorted(moved),
        is_on_disk=is_on_disk,
        gathers_layers=gathers_layers,
        copies_values=copies_values,
    )


def memory_layout(spec: JobSpec, manifest: BackendManifest, *, device_kind: str = "") -> MemoryLayout:
    """Return where a job's run keeps what, by the placements of its backend."""
    method = spec.train.method.WhichOneof("method") or "sft"
    held = [item for item in manifest.memory_placements if _holds(item, spec.backend_options)]
    return MemoryLayout(
        devices=spec.resources.devices or 1,
        divided=frozenset(part for item in held for part in item.divided),
        on_host=frozenset(part for item in held if not item.is_on_disk for part in item.moved),
        on_disk=frozenset(part for item in held if item.is_on_disk for part in item.moved),
        gathers_layers=any(item.gathers_layers for item in held),
        copies_values=any(item.copies_values for item in held),
        head_tiles=manifest.head_tiles if method in manifest.head_tiles.methods else None,
        on_processor=device_kind == "cpu",
    )


def _holds(placement: MemoryPlacement, options: Struct) -> bool:
    given = options.fields.get(placement.option)
    if given is None:
        return placement.is_default
    is_number = given.WhichOneof("kind") == "number_value"
    return (f"{given.number_value:g}" if is_number else given.string_value) == placement.value
