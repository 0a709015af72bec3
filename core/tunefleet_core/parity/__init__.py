"""The contract between training and serving: what was trained is what is served.

`contract.py` is the record that travels with every adapter, `tokens.py` and
`numbers.py` hold an engine to it, `references.py` are the conversations both sides render.
"""

from tunefleet_core.parity.contract import (
    CONTRACT_FILE,
    CONTRACT_FILE_VERSION,
    TOP_TOKENS,
    AdapterRecord,
    NumbersRecord,
    PrecisionRecord,
    TemplateRecord,
    TokensRecord,
    TopLogprobs,
    TrainServeContract,
    read_contract,
    write_contract,
)
from tunefleet_core.parity.numbers import NumbersVerdict, check_numbers, judge_numbers, tolerance
from tunefleet_core.parity.references import REFERENCE_CONVERSATIONS, ReferenceConversation, reference_prompts
from tunefleet_core.parity.tokens import check_tokens

__all__ = [
    "CONTRACT_FILE",
    "CONTRACT_FILE_VERSION",
    "REFERENCE_CONVERSATIONS",
    "TOP_TOKENS",
    "AdapterRecord",
    "NumbersRecord",
    "NumbersVerdict",
    "PrecisionRecord",
    "ReferenceConversation",
    "TemplateRecord",
    "TokensRecord",
    "TopLogprobs",
    "TrainServeContract",
    "check_numbers",
    "check_tokens",
    "judge_numbers",
    "read_contract",
    "reference_prompts",
    "tolerance",
    "write_contract",
]
