"""The same training as one plain script on mlx-lm's own trainer: what bench_wall_time compares a job with.

Run with the interpreter of the mlx environment; the arguments are a JSON object. The library's loop,
loss, adapters, data set and optimiser; where `order` is given, rows go through it in that order.
Prints its last loss.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm import load
from mlx_lm.tuner import trainer
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.utils import linear_to_lora_layers


class Losses(TrainingCallback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.told.append(train_info["train_loss"])


def main() -> None:
    asked = json.loads(sys.argv[1])
    if not asked["compile"]:
        mx.disable_compile()  # on a processor it calls a C++ compiler at first use
    mx.random.seed(asked["seed"])
    np.random.seed(asked["seed"])
    model, tokenizer = load(asked["base"])
    model.set_dtype(mx.float32)  # as the job computes on a processor; else in the files' bfloat16
    model.freeze()
    if asked["rank"]:
        scale = asked["alpha"] / asked["rank"]
        shape = {"rank": asked["rank"], "scale": scale, "dropout": asked["dropout"], "keys": asked["targets"]}
        linear_to_lora_layers(model, len(model.layers), shape)
    else:
        model.unfreeze()
    rows = [json.loads(line) for line in Path(asked["data"]).read_text().splitlines() if line]
    callback = Losses()
    trainer.train(
        model,
        optim.AdamW(rate(asked), weight_decay=asked["weight_decay"], bias_correction=True),
        CacheDataset(ChatDataset(rows, tokenizer, mask_prompt=True)),
        args=trainer.TrainingArgs(
            batch_size=asked["batch"],
            iters=asked["steps"],
            steps_per_report=1,
            max_seq_length=asked["max_length"],
            adapter_file=str(Path(asked["output"], "adapters.safetensors")),
        ),
        iterate_batches=(
            in_order(asked["order"], tokenizer.eos_token_id) if asked["order"] else trainer.iterate_batches
        ),
        training_callback=callback,
    )
    print()
    print(json.dumps({"last_loss": callback.told[-1], "steps": len(callback.told)}))


def rate(asked: dict[str, Any]) -> Any:
    warmup, steps, most = asked["warmup_steps"], asked["steps"], asked["learning_rate"]
    schedules = [optim.linear_schedule(0.0, most, warmup), optim.cosine_decay(most, steps - warmup)]
    return optim.join_schedules(schedules, [warmup])


def in_order(order: list[int], stop: int) -> Any:
    """Return batches of the rows as they are numbered, each trained up to the token that ends its answer.

    The library's own batches are sorted by length, and it trains what the template writes after an
    answer, and one filling token past that.
    """

    def batches(dataset: Any, batch_size: int, *_: Any, **__: Any) -> Iterator[tuple[Any, Any]]:
        for first in range(0, len(order), batch_size):
            rows = [dataset[row] for row in order[first : first + batch_size]]
            ids = np.zeros((len(rows), max(len(tokens) for tokens, _ in rows)), np.int32)
            for row, (tokens, _) in enumerate(rows):
                ids[row, : len(tokens)] = tokens
            ends = [len(tokens) - 1 - tokens[::-1].index(stop) for tokens, _ in rows]
            yield mx.array(ids), mx.array([[row[1], end] for row, end in zip(rows, ends, strict=True)])

    return batches


if __name__ == "__main__":
    main()
