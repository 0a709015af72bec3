"""The deepspeed backend: supervised fine-tuning with ZeRO over several devices of one host.

Importing this package is light. Torch is imported where a run works, in `rank.py`'s process.
"""
