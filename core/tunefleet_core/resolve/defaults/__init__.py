"""The defaults of a job: every value that is decided rather than given, with its reason.

One module per kind of work, and one per method and kind of adaptation where they differ.
A family may bring its own value for a field, for any method or for one; it wins over the
common one, and what the person gave wins over both.
"""

from tunefleet_core.resolve.defaults.common import fill_common
from tunefleet_core.resolve.defaults.evaluate import fill_evaluate
from tunefleet_core.resolve.defaults.filling import Defaults, shown
from tunefleet_core.resolve.defaults.length import ROUND_TO, default_length
from tunefleet_core.resolve.defaults.life import fill_life
from tunefleet_core.resolve.defaults.optimizer import fill_optimizer
from tunefleet_core.resolve.defaults.quantization import fill_quantization
from tunefleet_core.resolve.defaults.steps import fill_checkpointing, fill_warmup, micro_batch_size
from tunefleet_core.resolve.defaults.train import fill_train

__all__ = [
    "ROUND_TO",
    "Defaults",
    "default_length",
    "fill_checkpointing",
    "fill_common",
    "fill_evaluate",
    "fill_life",
    "fill_optimizer",
    "fill_quantization",
    "fill_train",
    "fill_warmup",
    "micro_batch_size",
    "shown",
]
