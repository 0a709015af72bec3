"""The life of a run, decided without any backend: pure functions and small states, no torch.

A backend feeds in numbers as they come and does what it is told; the states go into its
checkpoints as JSON, so that a resumed run decides as an uninterrupted one would.
"""

from tunefleet_core.run_health.alarms import CollapseWatch, GeneralScore, GeneralWatch, score_general
from tunefleet_core.run_health.best import BEST_BY, BestSoFar
from tunefleet_core.run_health.diagnosis import diagnose
from tunefleet_core.run_health.history import RunHistory
from tunefleet_core.run_health.keeping import BEST_FOLDER, keep_decisions, kept_decisions, link_folder
from tunefleet_core.run_health.loss_watch import LossWatch, Verdict
from tunefleet_core.run_health.memory_fix import MemoryUse, out_of_memory, smaller_micro_batch
from tunefleet_core.run_health.recovery import Recovery, last_good_step, training_diverged
from tunefleet_core.run_health.utilisation import ModelWork, peak_flops, utilisation

__all__ = [
    "BEST_BY",
    "BEST_FOLDER",
    "BestSoFar",
    "CollapseWatch",
    "GeneralScore",
    "GeneralWatch",
    "LossWatch",
    "MemoryUse",
    "ModelWork",
    "Recovery",
    "RunHistory",
    "Verdict",
    "diagnose",
    "keep_decisions",
    "kept_decisions",
    "last_good_step",
    "link_folder",
    "out_of_memory",
    "peak_flops",
    "score_general",
    "smaller_micro_batch",
    "training_diverged",
    "utilisation",
]
