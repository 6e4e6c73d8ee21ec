"""A policy with a value head, by itself: what it computes, and what it keeps for the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.models


def learned(policy: Any, *, checkpointed: bool) -> tuple[Any, int]:
    """(log-probabilities, values and all gradients; how often a layer was computed) of one pass there and back."""
    import torch

    from mloc.executors.training.ppo.ppo_rollouts import actor_critic, checkpoint_gradients

    torch.manual_seed(0)
    model = actor_critic(policy).eval()
    if checkpointed:
        checkpoint_gradients(policy)
    passes: list[None] = []
    first = next(module for module in policy.modules() if type(module).__name__.endswith("Attention"))
    first.register_forward_hook(lambda *_: passes.append(None))
    sequences = torch.arange(3, 27).reshape(2, 12)
    logprobs, values, _ = model(sequences, torch.ones_like(sequences), 6, 1.0)
    (logprobs.sum() + values.sum()).backward()
    gradients = [weights.grad.flatten() for weights in model.parameters() if weights.grad is not None]
    return torch.cat([logprobs.detach().flatten(), values.detach().flatten(), *gradients]), len(passes)


def llama(adapted: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    made: Any = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, attention_dropout=0.5))
    if adapted:
        from peft import LoraConfig, get_peft_model

        return get_peft_model(made, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_dropout=0.5))
    return made


def opt(_: bool) -> Any:
    """Its layers drop out by themselves, by a function."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=64, **sizes, dropout=0.5, attention_dropout=0.5, layerdrop=0.5))


@pytest.mark.parametrize(("made", "adapted"), [(llama, False), (llama, True), (opt, False)])
def test_activations_are_computed_again_and_nothing_else_is_another(made: Any, adapted: bool) -> None:
    kept, once = learned(made(adapted), checkpointed=False)
    computed_again, twice = learned(made(adapted), checkpointed=True)
    assert (once, twice) == (1, 2)
    assert computed_again.equal(kept)


def test_answers_are_sampled_with_keys_and_values_kept_all_the_same(random_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mloc.executors.training.ppo.ppo_rollouts import checkpoint_gradients, sample

    drawn = []
    for checkpointed in (False, True):
        policy: Any = AutoModelForCausalLM.from_pretrained(random_model).eval()
        if checkpointed:
            checkpoint_gradients(policy)
        lengths: list[int] = []
        policy.get_input_embeddings().register_forward_hook(lambda _, given, __, lengths=lengths: lengths.append(given[0].shape[1]))
        sampling = {"do_sample": False, "max_new_tokens": 5}
        rollouts = sample(policy, AutoTokenizer.from_pretrained(random_model), ["the quick"], sampling, None, lambda: False)
        assert rollouts is not None
        assert set(lengths[1:]) == {1}
        assert policy.is_gradient_checkpointing == checkpointed
        drawn.append(rollouts.texts)
    assert drawn[0] == drawn[1]
