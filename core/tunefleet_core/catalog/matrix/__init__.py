"""What combines with what: the one table that is shown, and that refuses at submit."""

from tunefleet_core.catalog.matrix.adapters import (
    ADAPTATIONS,
    PROMPT,
    Trait,
    adaptation_of,
    config_traits,
    spec_traits,
)
from tunefleet_core.catalog.matrix.engines import (
    ENGINES,
    Published,
    judge_adapter,
    judge_class,
    nearest_ranks,
)
from tunefleet_core.catalog.matrix.proof_record import Proofs, proofs, record
from tunefleet_core.catalog.matrix.standing import Cell, Standing, Verdict
from tunefleet_core.catalog.matrix.table import Matrix, combinations
from tunefleet_core.catalog.matrix.training import METHODS, judge_training, trained_formats

__all__ = [
    "ADAPTATIONS",
    "ENGINES",
    "METHODS",
    "PROMPT",
    "Cell",
    "Matrix",
    "Proofs",
    "Published",
    "Standing",
    "Trait",
    "Verdict",
    "adaptation_of",
    "combinations",
    "config_traits",
    "judge_adapter",
    "judge_class",
    "judge_training",
    "nearest_ranks",
    "proofs",
    "record",
    "spec_traits",
    "trained_formats",
]
