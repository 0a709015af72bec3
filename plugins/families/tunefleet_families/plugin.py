"""The hook through which tunefleet finds these families."""

from __future__ import annotations

from collections.abc import Sequence

from tunefleet_core.catalog.family import Family
from tunefleet_core.plugins.hookspecs import hookimpl
from tunefleet_families.cohere import COHERE
from tunefleet_families.cohere2 import COHERE2
from tunefleet_families.deepseek_v3 import DEEPSEEK_V3
from tunefleet_families.deepseek_v4 import DEEPSEEK_V4
from tunefleet_families.gemma2 import GEMMA2
from tunefleet_families.gemma3 import GEMMA3
from tunefleet_families.gemma4 import GEMMA4
from tunefleet_families.gpt_oss import GPT_OSS
from tunefleet_families.llama3 import LLAMA3
from tunefleet_families.llama4 import LLAMA4
from tunefleet_families.mistral import MISTRAL
from tunefleet_families.mixtral import MIXTRAL
from tunefleet_families.phi4 import PHI4
from tunefleet_families.qwen2_5 import QWEN2_5
from tunefleet_families.qwen3 import QWEN3
from tunefleet_families.qwen3_5 import QWEN3_5
from tunefleet_families.qwen3_moe import QWEN3_MOE

__all__ = ["FAMILIES", "tunefleet_families"]

FAMILIES: tuple[Family, ...] = (
    QWEN3,
    LLAMA3,
    QWEN2_5,
    QWEN3_MOE,
    MISTRAL,
    MIXTRAL,
    GEMMA2,
    GEMMA3,
    GEMMA4,
    PHI4,
    GPT_OSS,
    DEEPSEEK_V3,
    DEEPSEEK_V4,
    COHERE,
    COHERE2,
    LLAMA4,
    QWEN3_5,
)


@hookimpl
def tunefleet_families() -> Sequence[Family]:
    """Return every family of this distribution."""
    return FAMILIES
