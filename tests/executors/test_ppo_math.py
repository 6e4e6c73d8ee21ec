"""PPO's arithmetic against its definitions, on random rollouts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from mloc.executors.training.ppo.ppo_math import (  # noqa: E402
    advantages_of,
    answer_mask,
    masked_mean,
    policy_loss,
    steered_kl_coef,
    token_rewards,
    value_loss,
    whitened,
)

pytestmark = pytest.mark.models

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def random_batch(lengths: list[int], seed: int):  # type: ignore[no-untyped-def]
    """(mask, a function that gives random tensors of its shape)."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(lengths), 6)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return mask, lambda: torch.randn(mask.shape, generator=generator)


@given(LENGTHS, st.integers(0, 1000), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_the_discounted_sum_of_surprises(lengths: list[int], seed: int, gamma: float, lam: float) -> None:
    mask, draw = random_batch(lengths, seed)
    rewards, values = draw(), draw()
    advantages, returns = advantages_of(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        for at in range(length):
            expected = 0.0
            for later in range(at, length):
                following = float(values[row, later + 1]) if later + 1 < length else 0.0
                expected += (gamma * lam) ** (later - at) * (float(rewards[row, later]) + gamma * following - float(values[row, later]))
            assert float(advantages[row, at]) == pytest.approx(expected, abs=1e-4)
    assert torch.equal(advantages * (1 - mask), torch.zeros_like(mask))
    assert torch.allclose(returns, advantages + values * mask)


@given(LENGTHS, st.integers(0, 1000), st.floats(0.0, 1.0))
def test_an_answer_is_rewarded_with_its_score_less_what_its_tokens_strayed(lengths: list[int], seed: int, kl_coef: float) -> None:
    mask, draw = random_batch(lengths, seed)
    logprobs, reference, scores = draw(), draw(), draw()[:, 0]
    rewards = token_rewards(scores, logprobs, reference, mask, kl_coef)
    strayed = ((logprobs - reference) * mask).sum(1)
    assert torch.allclose(rewards.sum(1), scores - kl_coef * strayed, atol=1e-4)
    for row, length in enumerate(lengths):
        assert float(rewards[row, length - 1]) == pytest.approx(
            float(scores[row] - kl_coef * (logprobs - reference)[row, length - 1]), abs=1e-4
        )


@given(LENGTHS.filter(lambda lengths: sum(lengths) > 2), st.integers(0, 1000))
def test_whitened_values_have_mean_0_and_variance_1(lengths: list[int], seed: int) -> None:
    mask, draw = random_batch(lengths, seed)
    white = whitened(draw(), mask)
    assert float(masked_mean(white, mask)) == pytest.approx(0, abs=1e-4)
    assert float(masked_mean(white**2, mask)) == pytest.approx(1, abs=1e-3)


@given(LENGTHS, st.integers(0, 1000))
def test_a_policy_that_has_not_moved_is_judged_by_its_advantages_alone(lengths: list[int], seed: int) -> None:
    mask, draw = random_batch(lengths, seed)
    logprobs, advantages = draw(), draw()
    loss, clipped, moved = policy_loss(logprobs, logprobs, advantages, mask, 0.2)
    assert float(loss) == pytest.approx(float(-masked_mean(advantages, mask)), abs=1e-5)
    assert (float(clipped), float(moved)) == (0, 0)


def test_moving_further_than_the_clip_range_gains_nothing() -> None:
    mask, good = torch.ones(1, 1), torch.ones(1, 1)
    losses = [float(policy_loss(torch.full((1, 1), by), torch.zeros(1, 1), good, mask, 0.2)[0]) for by in (0.1, 0.3, 3.0)]
    assert losses[0] > losses[1] == losses[2] == pytest.approx(-1.2)


def test_a_value_gains_nothing_by_leaving_the_range_about_its_old_one() -> None:
    ones = torch.ones(1, 1)
    near, far = (float(value_loss(ones * value, ones * 0, ones * 5, ones, 0.2)) for value in (0.2, 5.0))
    assert near == far == pytest.approx(0.5 * 4.8**2)


def test_an_answer_goes_up_to_and_with_its_first_end_mark() -> None:
    assert answer_mask(torch.tensor([[5, 2, 5, 2], [5, 5, 5, 5], [3, 5, 5, 5]]), [2, 3]).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_the_penalty_grows_when_the_policy_strays_too_far_and_shrinks_when_it_does_not() -> None:
    assert steered_kl_coef(0.1, kl=60, target=6, rollouts=100, horizon=10_000) == pytest.approx(0.1 * 1.002)
    assert steered_kl_coef(0.1, kl=0, target=6, rollouts=100, horizon=10_000) == pytest.approx(0.1 * 0.998)
