"""What a trainer has in memory between two steps and transformers writes into no checkpoint: without it, the curve that follows is another one.

Losses and metrics that are not logged yet (their mean is), tokens counted so far, answers that GRPO and RLOO sampled and have still to learn
from, the place in that course, a reference that moves along (`sync_ref_model`). Each rank has a file of its own. A checkpoint without one, or of
another number of ranks, is gone on from as the library alone would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mloc.executors.ranks import rank

REFERENCE_FILE = "held-reference.pt"
ADAPTER = "adapter_model.safetensors"  # as PEFT calls it


def save_held(trainer: Any, checkpoint: Path) -> None:
    """Into a checkpoint that is being written, beside the state of the random numbers."""
    import torch

    held: dict[str, Any] = {"pending_loss": trainer._tr_loss.item(), "last_logged": trainer._globalstep_last_logged}
    for name in ("_step", "_total_train_tokens"):
        if hasattr(trainer, name):
            held[name] = getattr(trainer, name)
    if hasattr(trainer, "_metrics"):
        held["metrics"] = {name: list(values) for name, values in trainer._metrics["train"].items()}
    if _is_amid_answers(trainer):
        held["answers"] = trainer._buffered_inputs
    if rank() == 0 and (reference := _moving_reference(trainer)) is not None:  # all have the same
        checkpoint.mkdir(parents=True, exist_ok=True)
        torch.save(reference.state_dict(), checkpoint / REFERENCE_FILE)
    checkpoint.mkdir(parents=True, exist_ok=True)  # rank 0 may not have come so far
    torch.save(held, checkpoint / _file_name(trainer))


def take_back(trainer: Any, checkpoint: Path) -> None:
    """Into a trainer that is about to go on from a checkpoint, once it has set its own counts to where that begins."""
    import torch

    file = checkpoint / _file_name(trainer)
    if not file.is_file():
        return
    held: dict[str, Any] = torch.load(file, map_location=trainer.args.device, weights_only=True)
    trainer._tr_loss += held["pending_loss"]
    trainer._total_loss_scalar -= held["pending_loss"]  # train_loss is that of this attempt's steps
    trainer._globalstep_last_logged = held["last_logged"]
    for name in ("_step", "_total_train_tokens"):
        if name in held:
            setattr(trainer, name, held[name])
    if "metrics" in held:
        trainer._metrics["train"].update(held["metrics"])
    if "answers" in held:
        trainer._buffered_inputs = held["answers"]
    if (checkpoint / REFERENCE_FILE).is_file() and (reference := _moving_reference(trainer)) is not None:
        reference.load_state_dict(torch.load(checkpoint / REFERENCE_FILE, map_location="cpu", weights_only=True))  # a device has no room for two


def load_as_trained(trainer: Any) -> None:
    """Have a checkpoint's weights come back as they were. Of a checkpoint with other adapters in folders of their own (a reference's), transformers
    leaves out the one that is trained; and PEFT makes adapters float32, though those on top of four bits are trained in bfloat16 where that is
    computed in."""
    load = trainer._load_from_checkpoint

    def loaded(checkpoint: str, *given: Any, **named: Any) -> None:
        types = {name: parameter.dtype for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        load(checkpoint, *given, **named)
        if hasattr(trainer.model, "peft_config") and (Path(checkpoint) / ADAPTER).is_file() and any(Path(checkpoint).glob(f"*/{ADAPTER}")):
            trainer.model.load_adapter(checkpoint, trainer.model.active_adapters[0], is_trainable=True)
        for name, parameter in trainer.model.named_parameters():
            if name in types and parameter.dtype != types[name]:
                parameter.data = parameter.data.to(types[name])

    trainer._load_from_checkpoint = loaded


def begin_at_pass(trainer: Any, passes: int) -> None:
    """Have TRL's own sampler go over the prompts in the order of this pass: it draws the orders one after the other, and transformers, which
    begins with the pass that a checkpoint was written in, does not know that. Other samplers are told the number of the pass."""
    from trl.trainer.utils import RepeatSampler

    make = trainer._get_train_sampler

    def sampler_of(*given: Any, **named: Any) -> Any:
        sampler = make(*given, **named)
        if isinstance(sampler, RepeatSampler):
            for _ in range(passes):
                next(iter(sampler), None)
        return sampler

    trainer._get_train_sampler = sampler_of


def _is_amid_answers(trainer: Any) -> bool:
    """Whether answers that were sampled are to be learned from further."""
    if getattr(trainer, "_buffered_inputs", None) is None:
        return False
    return bool(trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations))


def _moving_reference(trainer: Any) -> Any:
    """The reference where it is not the model that training started with; None too where DeepSpeed or FSDP keep it in parts."""
    if not getattr(trainer.args, "sync_ref_model", False) or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return None
    reference = getattr(trainer, "ref_model", None)
    return None if reference is None else trainer.accelerator.unwrap_model(reference)


def _file_name(trainer: Any) -> str:
    return f"held-{rank()}-of-{trainer.args.world_size}.pt"
