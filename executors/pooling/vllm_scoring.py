"""Scores by vLLM: of a language model what its engine says of the prompt's own tokens, of a classifier its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.inference import vllm_model
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.pooling.likelihood import Likelihood, scored_tokens
from mloc.executors.pooling.model_head import is_classifier
from mloc.executors.pooling.scoring_model import ScoringModel, classifier_model, likelihood_model
from mloc.executors.pooling.vllm_pooling import logits, pooling_identities, start_pooling, write_whole_classifier
from mloc.executors.training.rewards.reward_models import scorer_of


def scoring_identities(spec: TaskSpec, context: Context) -> list[str]:
    """What a warm engine may be made of to serve the task: a language model's answers prompts too."""
    return pooling_identities(spec, context, {}) if is_classifier(spec, context) else vllm_model.identities(spec, context)


def start_scoring(spec: TaskSpec, context: Context) -> VllmEngine:
    """Raises ExecutorError."""
    if is_classifier(spec, context):
        return start_pooling(spec, context, {}, lambda folder: write_whole_classifier(spec, context, folder))
    return vllm_model.load(spec, context)


def open_scoring(spec: TaskSpec, engine: VllmEngine, context: Context) -> ScoringModel:
    """The engine's scores, for this task."""
    served = vllm_model.served_model(spec, context)
    if is_classifier(spec, context):
        scorer = scorer_of(engine.model_config, engine.tokenizer, served.model, lambda texts, has_marks: _logits(engine, texts, has_marks))
        return classifier_model(served.name, scorer, engine.batch)
    lora, tokenizer = engine.with_adapter(served.adapter) if served.adapter is not None else None, engine.tokenizer_of(served.adapter)

    def likelihoods(pairs: Sequence[tuple[str, str]], is_chat: bool) -> list[Likelihood]:
        return _likelihoods(engine, lora, [scored_tokens(before, answer, tokenizer, is_chat) for before, answer in pairs])

    return likelihood_model(served.name, tokenizer, spec.inference, likelihoods, engine.batch)


def _logits(engine: VllmEngine, texts: Sequence[str], has_marks: bool) -> Any:
    tokenizer = engine.tokenizer
    tokenizer.truncation_side = "left"
    longest = min(engine.max_length, tokenizer.model_max_length)
    encoded = tokenizer(list(texts), truncation=True, max_length=longest, add_special_tokens=not has_marks)
    return logits(engine, encoded["input_ids"])


def _likelihoods(engine: VllmEngine, lora: Any, encoded: Sequence[tuple[list[int], int]]) -> list[Likelihood]:
    """`encoded`: (tokens, where the answer begins). vLLM writes one token after them, which nobody reads."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    longest = max(len(tokens) for tokens, _ in encoded)
    if longest >= engine.max_length:
        raise ExecutorError("TextTooLong", f"prompt and answer have {longest} tokens together, and the model takes {engine.max_length - 1}")
    only_prompt = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
    outputs = engine.results([engine.ask(tokens, only_prompt, lora) for tokens, _ in encoded]) or []
    return [_of_answer(answered.output.prompt_logprobs, tokens, start) for answered, (tokens, start) in zip(outputs, encoded, strict=True)]


def _of_answer(places: Sequence[Any], tokens: list[int], start: int) -> Likelihood:
    """`places`: for each token of the prompt {token: its logprob}."""
    logprob = sum(places[at][tokens[at]].logprob for at in range(start, len(tokens)))
    return Likelihood(float(logprob), len(tokens) - start, start)
