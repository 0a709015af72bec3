"""An OpenAI-compatible HTTP engine on transformers: continuous batching, several LoRA adapters on one base.

`python -m tunefleet_embedded.engine --model FOLDER` starts it. One thread owns the model (`scheduler`), the
asyncio loop owns HTTP (`http`); they meet only in `Scheduler.submit`, `Scheduler.cancel` and the per-step
hand-over of updates.
"""
