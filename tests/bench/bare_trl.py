"""The same training as one plain TRL script: what bench_wall_time compares a job with.

Run with the interpreter of the trl environment; the arguments are a JSON object. It is what a
person would write: load, let TRL tokenise and mask, train, save. Prints its last loss.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(asked["base"]),
        train_dataset=load_dataset("json", data_files=asked["data"], split="train", cache_dir=asked["cache"]),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=asked["rank"],
            lora_alpha=asked["alpha"],
            lora_dropout=asked["dropout"],
            target_modules=asked["targets"],
        ),
        args=SFTConfig(
            output_dir=asked["output"],
            assistant_only_loss=True,
            max_length=asked["max_length"],
            per_device_train_batch_size=asked["batch"],
            max_steps=asked["steps"],
            learning_rate=asked["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=asked["warmup_steps"],
            max_grad_norm=asked["max_grad_norm"],
            weight_decay=asked["weight_decay"],
            seed=asked["seed"],
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_steps=200,
            disable_tqdm=True,
            report_to="none",
        ),
    )
    trainer.train()
    trainer.save_model(asked["output"])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({"last_loss": losses[-1], "steps": len(losses)}))


if __name__ == "__main__":
    main()
