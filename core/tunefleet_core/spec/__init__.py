"""Job files: YAML to the proto `JobSpec`, and what a spec must satisfy."""

from tunefleet_core.spec.display import spec_to_yaml
from tunefleet_core.spec.job_file import parse_job_file, parse_job_text
from tunefleet_core.spec.lora_scale import (
    DEFAULT_RANK,
    LOFTQ,
    effective_scale,
    is_given_back,
    is_only_for_quantised,
    neutral_alpha,
    scale_formula,
    takes_from_base,
    written_rank,
)
from tunefleet_core.spec.rules import (
    DTYPES,
    LOSS_ON,
    METRICS,
    OVER_LONG,
    QUANTIZATIONS,
    SCHEDULES,
    find_violations,
    validate_spec,
)

__all__ = [
    "DEFAULT_RANK",
    "DTYPES",
    "LOFTQ",
    "LOSS_ON",
    "METRICS",
    "OVER_LONG",
    "QUANTIZATIONS",
    "SCHEDULES",
    "effective_scale",
    "find_violations",
    "is_given_back",
    "is_only_for_quantised",
    "neutral_alpha",
    "parse_job_file",
    "parse_job_text",
    "scale_formula",
    "spec_to_yaml",
    "takes_from_base",
    "validate_spec",
    "written_rank",
]
