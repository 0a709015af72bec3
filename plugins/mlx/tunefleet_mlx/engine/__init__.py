"""An OpenAI engine around mlx-lm's batches: one base in memory, any number of adapters by name.

A process of its own: `python -m tunefleet_mlx.engine --model FOLDER`. Why not mlx-lm's server
as it is: ADR 0045.
"""
