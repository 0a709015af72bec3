"""Model families: one module each, nothing that needs torch."""

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

__all__ = [
    "COHERE",
    "COHERE2",
    "DEEPSEEK_V3",
    "DEEPSEEK_V4",
    "GEMMA2",
    "GEMMA3",
    "GEMMA4",
    "GPT_OSS",
    "LLAMA3",
    "LLAMA4",
    "MISTRAL",
    "MIXTRAL",
    "PHI4",
    "QWEN2_5",
    "QWEN3",
    "QWEN3_5",
    "QWEN3_MOE",
]
