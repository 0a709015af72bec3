"""Pay for imports before work arrives.

Libraries load much of themselves at first use; what a run is known to need is named here,
found by comparing `sys.modules` before and after a run. Nothing here makes a tensor or
touches a device: the process may wait for hours, or be forked from.
"""

from __future__ import annotations

import gc
import importlib
from functools import cache
from importlib.util import find_spec

__all__ = ["import_all"]

_MODULES = (
    "tunefleet_trl.training",
    "tunefleet_trl.evaluation",
    "tunefleet_core.rendering",
    "tunefleet_trl.export",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.generation.utils",
    "peft.tuners.lora",
    *(("peft.tuners.lora.bnb",) if find_spec("bitsandbytes") else ()),  # not every platform has it
    "peft.utils.transformers_weight_conversion",
    "torch._dynamo",
    "torch.profiler._cupti_monitor",
    "torch.utils.checkpoint",
    "torch.utils.serialization.config",
    "numpy.ctypeslib",
    "jinja2.ext",
)


def import_all() -> None:
    """Import everything, then keep the garbage collector off what will live for ever."""
    for name in _MODULES:
        importlib.import_module(name)
    _build_weight_conversions()
    _build_dataset()
    _remember_packages()
    gc.collect()
    gc.freeze()


def _build_weight_conversions() -> None:
    """Have the library compile its table of weight names, patterns for every model it knows, once.

    The first model that is loaded pays for it otherwise: a fifth of the load of a small one.
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def _build_dataset() -> None:
    """Have the library meet its first rows, of plain numbers: half of what 400 rows cost later."""
    from tunefleet_core.rendering import RenderedRow
    from tunefleet_trl.token_columns import lengths_of, supervised_dataset

    lengths_of(supervised_dataset([RenderedRow(input_ids=[0], mask=[0])]), "input_ids")


def _remember_packages() -> None:
    """Have accelerate look once whether a package is installed: it reads its metadata a dozen times
    before the first step, and searches for another one with every step.
    """
    from accelerate.utils import imports

    imports._is_package_available = cache(imports._is_package_available)
