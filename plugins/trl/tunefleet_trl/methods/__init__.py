"""Training methods beside supervised fine-tuning, one module per kind of loss.

What rows of judged answers hold is rendered by core, for the audit and for training alike;
`collating.py` makes batches of it. The rest of a run is that of `training.py`.
"""

__all__ = ["METHODS"]

METHODS = ("dpo", "ipo", "kto", "orpo", "simpo", "grpo", "rloo", "reward", "distill")
"""The methods that this backend trains by beside `sft`, as a job file names them."""
