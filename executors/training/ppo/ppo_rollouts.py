"""A policy with a value head, and the answers that it samples: what PPO learns from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from mloc.executors.training.ppo.ppo_math import answer_mask

Tensor = Any
_AT_RANDOM = ("dropout", "layerdrop", "drop_path", "jitter_noise")  # ends of the names of what layers do at random while they are trained


class Rollouts(Struct, frozen=True):
    """A batch of answers as left-padded sequences of `width` prompt tokens and as many answer tokens as `mask` has columns."""

    sequences: Tensor  # (rollouts, width + tokens)
    attention: Tensor  # the same shape: 0 on padding
    width: int
    mask: Tensor  # (rollouts, tokens): 1 up to and with the end mark
    ended: Tensor  # (rollouts,): whether there was one
    texts: list[str]

    def rows(self, at: Any) -> Rollouts:
        """Those of the given places."""
        return Rollouts(self.sequences[at], self.attention[at], self.width, self.mask[at], self.ended[at], [])


def actor_critic(policy: Any) -> Any:
    """A module around the policy with a scalar head on its last hidden state (Ziegler et al. 2019, section 2.2).

    Its forward pass gives log-probabilities, values and entropies of the answers' tokens, each (rollouts, tokens), in float32.
    """
    import torch

    class ActorCritic(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy
            size = policy.get_input_embeddings().embedding_dim
            self.value_head = torch.nn.Linear(size, 1)
            torch.nn.init.normal_(self.value_head.weight, std=(size + 1) ** -0.5)  # Huang et al. 2024, detail 12
            torch.nn.init.zeros_(self.value_head.bias)
            self.value_head.to(next(policy.parameters()).device)

        def forward(self, sequences: Tensor, attention: Tensor, width: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
            positions = (attention.cumsum(1) - 1).clamp(min=0)
            out = self.policy(
                input_ids=sequences, attention_mask=attention, position_ids=positions, output_hidden_states=True, use_cache=False
            )
            logits = out.logits[:, width - 1 : -1].float() / temperature
            everything = logits.log_softmax(-1)
            logprobs = everything.gather(-1, sequences[:, width:, None])[..., 0]
            with torch.autocast(sequences.device.type, enabled=False):  # the policy may compute in half, what it is worth is a small difference
                values = self.value_head(out.hidden_states[-1][:, width - 1 : -1].float())[..., 0]
            return logprobs, values, -(everything.exp() * everything).sum(-1)

    return ActorCritic()


def checkpoint_gradients(policy: Any) -> None:
    """Compute activations again on the way back, of a policy in evaluation mode: its library does so only where a layer is told that it is being
    trained. Only those layers are, with no dropout and no noise of their own; what lies within them stays as it is, and so do all results."""
    policy.gradient_checkpointing_enable()
    policy.enable_input_require_grads()
    for module in policy.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True  # its own flag, not that of the modules below it
            for name, value in list(vars(module).items()):
                if isinstance(value, float) and name.endswith(_AT_RANDOM):
                    setattr(module, name, 0.0)


def sample(
    policy: Any, tokenizer: Any, prompts: list[str], sampling: dict[str, Any], longest: int | None, stop: Callable[[], bool]
) -> Rollouts | None:
    """One answer to each prompt (a text with its chat marks); None where it was stopped on the way."""
    import torch
    from transformers import StoppingCriteriaList

    device = policy.get_input_embeddings().weight.device
    cut = {"truncation": True, "max_length": longest} if longest else {}
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", truncation_side="left", add_special_tokens=False, **cut)
    encoded = encoded.to(device)
    width = encoded["input_ids"].shape[1]
    asked = lambda ids, scores, **_: torch.full((ids.shape[0],), stop(), dtype=torch.bool, device=ids.device)  # noqa: E731
    with torch.no_grad(), _cached(policy):
        sequences = policy.generate(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([asked]), **sampling,
        )  # fmt: skip
    if stop():
        return None
    answers = sequences[:, width:]
    ends = end_marks(policy, tokenizer)
    mask = answer_mask(answers, ends)
    ended = sum(answers.eq(end) for end in ends).bool().any(1)
    attention = torch.cat([encoded["attention_mask"], mask.long()], 1)
    kept = [row[: int(length)] for row, length in zip(answers, mask.sum(1), strict=True)]
    return Rollouts(sequences, attention, width, mask, ended, tokenizer.batch_decode(kept, skip_special_tokens=True))


def end_marks(policy: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, as generation knows them."""
    configured = policy.generation_config.eos_token_id
    marks = configured if isinstance(configured, list) else [configured]
    return [mark for mark in marks if mark is not None] or [tokenizer.eos_token_id]


@contextlib.contextmanager
def _cached(policy: Any) -> Iterator[None]:
    """Generation keeps keys and values, which gradient checkpointing had switched off."""
    checkpointing = getattr(policy, "is_gradient_checkpointing", False)
    if checkpointing:
        policy.gradient_checkpointing_disable()
    try:
        yield
    finally:
        if checkpointing:
            policy.gradient_checkpointing_enable()
