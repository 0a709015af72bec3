"""The trl backend: supervised fine-tuning of LoRA adapters, evaluation and mask audit.

Importing this package is light. Torch is imported where a run works, in `rank.py`'s process.
"""
