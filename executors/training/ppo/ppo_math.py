"""The arithmetic of PPO on tensors of shape (rollouts, tokens). `mask` is 1 where a token belongs to the answer, else 0.

Schulman et al. 2017 (arXiv:1707.06347) for the clipped losses, Schulman et al. 2016 (arXiv:1506.02438) for generalised advantage
estimation, Ziegler et al. 2019 (arXiv:1909.08593) for the KL penalty and its controller.
"""

from __future__ import annotations

from typing import Any

Tensor = Any


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the answers' tokens; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whitened(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Values of variance 1, and of mean 0 unless `shift_mean` is off, over the answers' tokens; 0 elsewhere."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    white = (values - mean) * (variance + 1e-8).rsqrt()
    return (white if shift_mean else white + mean) * mask


def answer_mask(tokens: Tensor, eos: list[int]) -> Tensor:
    """1 up to and with the first end mark of each row, 0 after it. `tokens`: (rollouts, tokens) of integers."""
    ended = tokens.eq(eos[0])
    for other in eos[1:]:
        ended = ended | tokens.eq(other)
    return (ended.cumsum(1) - ended.long()).eq(0).float()


def token_rewards(scores: Tensor, logprobs: Tensor, reference: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The KL penalty at every token, and the score at the last token of each answer. `scores`: (rollouts,)."""
    rewards = -kl_coef * (logprobs - reference) * mask
    last = (mask.sum(1).long() - 1).clamp(min=0)
    rewards.scatter_add_(1, last.unsqueeze(1), scores.unsqueeze(1).to(rewards.dtype))
    return rewards


def advantages_of(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), not whitened. The value after an answer's last token is 0."""
    values, rewards = values * mask, rewards * mask
    advantages = rewards.new_zeros(rewards.shape)
    carried = rewards.new_zeros(rewards.shape[0])
    for at in reversed(range(rewards.shape[1])):
        following = values[:, at + 1] if at + 1 < rewards.shape[1] else rewards.new_zeros(rewards.shape[0])
        carried = (rewards[:, at] + gamma * following - values[:, at] + gamma * lam * carried) * mask[:, at]
        advantages[:, at] = carried
    return advantages, advantages + values


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cliprange: float) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, share of clipped tokens, how far the policy moved: half the mean squared log-ratio)."""
    log_ratio = (logprobs - old) * mask
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return masked_mean(plain.maximum(clipped), mask), masked_mean(clipped.gt(plain).float(), mask), 0.5 * masked_mean(log_ratio**2, mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, cliprange: float) -> Tensor:
    """Half the mean squared error; a value may not gain by leaving the range about its old one."""
    clipped = old + (values - old).clamp(-cliprange, cliprange)
    return 0.5 * masked_mean(((values - returns) ** 2).maximum((clipped - returns) ** 2), mask)


def steered_kl_coef(kl_coef: float, kl: float, target: float, rollouts: int, horizon: int) -> float:
    """The next coefficient of the KL penalty: larger when the divergence `kl` is above the target (Ziegler et al. 2019, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * rollouts / horizon)
