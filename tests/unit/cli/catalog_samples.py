"""A catalogue as it could be, for every view."""

from __future__ import annotations

from samples import CAPABILITIES

from tunefleet.backend.v1.backend_pb2 import BackendManifest
from tunefleet.catalog.v1.catalog_service_pb2 import Backend, Combination, Family, Format, Plugin, Standing
from tunefleet.fleet.v1.fleet_pb2 import InstalledBackend
from tunefleet_core.recipes import JobRecipe, find_recipe, own_recipes


def backends() -> list[Backend]:
    names = ["services/laptop-trainer", "services/laptop-server"]
    return [
        Backend(
            installed=InstalledBackend(
                manifest=BackendManifest(name=name, capabilities=CAPABILITIES),
                status=status,
                environment_digest=digest * 16,
            ),
            services=names,
        )
        for name, status, digest in (("trl", "ACTIVE", "ab"), ("mlx", "FAILED", "cd"))
    ]


def families() -> list[Family]:
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return [
        Family(
            name="qwen3",
            model_types=["qwen3"],
            stop_tokens=["<|im_end|>", "<|endoftext|>"],
            target_modules=modules,
        )
    ]


def formats() -> list[Format]:
    return [
        Format(
            name="gguf",
            distribution="tunefleet-formats==0.1.0",
            summary="llama.cpp's one-file models; k-quants from two to six bits.",
            bits_per_weight=4.8944,
            variants=["q4_k_m", "q2_k", "q5_k_m", "q6_k", "q8_0", "f16"],
            exported_by=["gguf"],
            served_by=["sglang", "vllm"],
        ),
        Format(
            name="nf4",
            distribution="tunefleet-formats==0.1.0",
            summary="Four bits spaced as a normal distribution is.",
            bits_per_weight=4.127,
            variants=["double", "single"],
            trained_by=["trl"],
            served_by=["embedded", "sglang", "vllm"],
        ),
    ]


def combinations() -> list[Combination]:
    proven, stated, no = (
        Standing.STANDING_PROVEN,
        Standing.STANDING_STATED,
        Standing.STANDING_NO,
    )
    merge = "train.merge: true, and vllm serves the whole model"
    dora = "its loader refuses DoRA"
    cells = (
        ("lora", "", "qwen3", "", proven, "test_two_steps_are_trained[qwen3-lora]", ""),
        ("lora", "", "qwen3", "vllm", stated, "vllm==0.33.0 takes adapters on Qwen3ForCausalLM", ""),
        ("lora", "", "llama4", "", no, "the backend 'trl' cannot train it", "backend: other"),
        ("lora", "", "llama4", "vllm", no, "the backend 'trl' cannot train it", "backend: other"),
        ("lora", "nf4", "qwen3", "", proven, "test_two_steps_are_trained[qwen3-lora-nf4]", ""),
        ("lora", "nf4", "qwen3", "vllm", Standing.STANDING_UNSPECIFIED, "nobody asked", ""),
        ("dora", "", "qwen3", "", proven, "test_two_steps_are_trained[qwen3-dora]", ""),
        ("dora", "", "qwen3", "vllm", no, dora, merge),
        ("dora", "nf4", "qwen3", "", stated, "tunefleet-trl==0.1.0 declares it", ""),
        ("dora", "nf4", "qwen3", "vllm", no, dora, merge),
    )
    return [
        Combination(
            backend="trl",
            method="sft",
            adaptation=adaptation,
            format=quantization,
            family=family,
            engine=engine,
            standing=standing,
            reason=reason,
            instead=instead,
        )
        for adaptation, quantization, family, engine, standing, reason, instead in cells
    ]


def plugins() -> list[Plugin]:
    return [
        Plugin(
            name="trl",
            kind="backend",
            distribution="tunefleet-trl==0.1.0",
            status="ACTIVE",
            summary="Trains with TRL and PEFT on CPU and CUDA.",
        ),
        Plugin(
            name="mlx",
            kind="backend",
            distribution="tunefleet-mlx==0.1.0",
            status="FAILED",
            error="It did not describe itself within 20 s.",
            hint="tunefleet plugins install mlx",
        ),
        Plugin(name="qwen3", kind="family", distribution="tunefleet-families==0.1.0", status="ACTIVE"),
    ]


def recipes() -> list[JobRecipe]:
    return [find_recipe(own_recipes(), name) for name in ("qlora-8b", "extraction", "tool-calling")]
