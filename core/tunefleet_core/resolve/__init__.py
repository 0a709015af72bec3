"""How a job spec becomes what runs: `draft`, an audit of the rows, then `finish`.

Pure functions. The coordinator asks a host for the facts of the base, drafts, asks a
backend for the audit, and finishes. Workers and servers read only the result.
"""

from tunefleet_core.resolve.audited import combine_masks, files_of
from tunefleet_core.resolve.companions import WantedCompanion, companions_of
from tunefleet_core.resolve.draft import Draft, draft_evaluate, draft_train
from tunefleet_core.resolve.engine_settings import settle_engine
from tunefleet_core.resolve.export import own_dtype, require_same_base, resolve_export
from tunefleet_core.resolve.finish import (
    ChosenBackend,
    Resolution,
    check_backend,
    digest_of,
    finish_evaluate,
    finish_train,
    resolve_plain,
)
from tunefleet_core.resolve.format_export import FormatExport, resolve_format_export
from tunefleet_core.resolve.loadable import engines_that_load
from tunefleet_core.resolve.options import check_backend_options, plain_options
from tunefleet_core.resolve.servable import require_deployable

__all__ = [
    "ChosenBackend",
    "Draft",
    "FormatExport",
    "Resolution",
    "WantedCompanion",
    "check_backend",
    "check_backend_options",
    "combine_masks",
    "companions_of",
    "digest_of",
    "engines_that_load",
    "settle_engine",
    "files_of",
    "draft_evaluate",
    "draft_train",
    "finish_evaluate",
    "finish_train",
    "own_dtype",
    "plain_options",
    "require_deployable",
    "require_same_base",
    "resolve_export",
    "resolve_format_export",
    "resolve_plain",
]
