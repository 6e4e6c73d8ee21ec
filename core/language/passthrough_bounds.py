"""Bounds of numbers in the pass-through sections: only those that hold in every library that takes the name.

What they mean beyond that stays the library's affair: `max_steps: -1` says "as many as the epochs have", `save_total_limit: 0` "no limit".
"""

from __future__ import annotations

from typing import NamedTuple


class Bounds(NamedTuple):
    """`least` itself is allowed unless `is_open`; `most` always is."""

    least: float
    most: float = float("inf")
    is_open: bool = False

    def hold(self, number: float) -> bool:
        return (number > self.least if self.is_open else number >= self.least) and number <= self.most

    def __str__(self) -> str:
        return f"{'>' if self.is_open else '≥'} {self.least:g}" + (f" and ≤ {self.most:,.0f}" if self.most < float("inf") else "")


def _bounds(**groups: tuple[Bounds, str]) -> dict[str, Bounds]:
    return {name: bounds for bounds, names in groups.values() for name in names.split()}


_ONE = Bounds(1)
_NONE = Bounds(0)
_SHARE = Bounds(0, 1)
_PART = Bounds(0, 1, is_open=True)
_MORE_THAN_NONE = Bounds(0, is_open=True)

BOUNDS: dict[str, dict[str, Bounds]] = {
    "training": _bounds(
        one=(_ONE, """per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps max_length max_completion_length
            num_generations num_iterations ppo_epochs mini_batch_size nproc_per_node early_stopping_patience max_new_tokens"""),
        none=(_NONE, """num_train_epochs learning_rate weight_decay warmup_steps max_grad_norm adam_epsilon beta dataloader_num_workers
            logging_steps save_steps eval_steps temperature target_kl kl_coef vf_coef"""),
        share=(_SHARE, "adam_beta1 adam_beta2 gamma lam min_p"),
        part=(_PART, "top_p vllm_gpu_memory_utilization"),
        steps=(Bounds(-1), "max_steps"),
        seed=(Bounds(0, 2**32 - 1), "seed"),
        stage=(Bounds(0, 3), "zero_stage auto_deepspeed_stage"),
    ),
    "generation": _bounds(
        one=(_ONE, "max_new_tokens max_length num_beams num_return_sequences n"),
        none=(_NONE, "min_new_tokens min_length temperature"),
        share=(_SHARE, "min_p"),
        part=(_PART, "top_p"),
        above=(_MORE_THAN_NONE, "repetition_penalty"),
    ),
    "vllm": _bounds(
        one=(_ONE, """tensor_parallel_size pipeline_parallel_size data_parallel_size max_num_seqs max_num_batched_tokens block_size max_loras
            max_lora_rank"""),
        none=(_NONE, "cpu_offload_gb"),
        part=(_PART, "gpu_memory_utilization"),
        found=(Bounds(-1), "max_model_len"),
    ),
    "agent": _bounds(
        one=(_ONE, "max_steps max_tokens max_total_tokens"),
        none=(_NONE, "temperature"),
        above=(_MORE_THAN_NONE, "timeout"),
    ),
}  # fmt: skip
"""Section → present name → bounds."""


def out_of_bounds(section: str, name: str, value: object) -> Bounds | None:
    """The bounds that a number breaks; None for what keeps them, has none, or is no number."""
    bounds = BOUNDS.get(section, {}).get(name)
    return bounds if bounds and isinstance(value, int | float) and not isinstance(value, bool) and not bounds.hold(value) else None
