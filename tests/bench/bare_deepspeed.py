"""The same training as one plain script on DeepSpeed: what bench_wall_time compares a job with.

One process of several that torchrun starts with the interpreter of the deepspeed environment; the
arguments are a JSON object. TRL's trainer with a ZeRO configuration, as a person would write it, and
what it takes besides where there is no accelerator. The first process prints its last loss.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import deepspeed.ops
import torch
import torch.distributed as dist
from accelerate import PartialState
from datasets import load_dataset
from deepspeed import comm
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    meet_on_processors()
    state = PartialState(backend="gloo")
    with state.main_process_first():
        rows = load_dataset("json", data_files=asked["data"], split="train", cache_dir=asked["cache"])
    arguments = SFTConfig(  # before the base, which is split while such arguments live
        output_dir=asked["output"],
        assistant_only_loss=True,
        max_length=asked["max_length"],
        per_device_train_batch_size=asked["batch"] // state.num_processes,
        max_steps=asked["steps"],
        learning_rate=asked["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=asked["warmup_steps"],
        max_grad_norm=asked["max_grad_norm"],
        weight_decay=asked["weight_decay"],
        seed=asked["seed"],
        bf16=False,
        use_cpu=True,
        accelerator_config={"use_configured_state": True},
        deepspeed=zero(asked["zero_stage"]),
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(asked["base"]),
        train_dataset=rows,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=asked["rank"],
            lora_alpha=asked["alpha"],
            lora_dropout=asked["dropout"],
            target_modules=asked["targets"],
        ),
        args=arguments,
    )
    trainer.train()
    trainer.save_model(asked["output"])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if state.is_main_process:
        print(json.dumps({"last_loss": losses[-1], "steps": len(losses)}))
    dist.destroy_process_group()


def meet_on_processors() -> None:
    """Make the group that accelerate makes only beside an accelerator, and compile nothing for it."""
    dist.init_process_group("gloo")
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    comm.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"


def zero(stage: int) -> dict[str, object]:
    return {
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "steps_per_print": 1 << 31,
    }


if __name__ == "__main__":
    main()
