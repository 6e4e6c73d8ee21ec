"""Answers that follow a JSON schema, match a pattern or are one of some choices: with llguidance, token by token.

A model that is cut off in the middle of an object has given nothing of use. So near the end of its tokens a row may only take a token from
which the answer can still be closed, and when that is none, the next token of the shortest end that was found.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec

from mloc.core.language.inference_spec import Inference
from mloc.executors.contract import ExecutorError

CLOSERS = "}]"
NAMES = ("json_schema", "regex", "choice")
LONGEST_END = 4096  # tokens
ORDINARY, AGAIN = 200.0, 1000.0  # ranks of tokens: from here on they close nothing; what a token loses each time that it was taken


def grammar_of(inference: Inference) -> str | None:
    """What llguidance reads; None for free text. Raises ExecutorError for a schema or pattern that it does not take."""
    asked = next((name for name in NAMES if getattr(inference, name) is not None), None)
    if asked is None:
        return None
    if inference.ignore_eos or inference.min_tokens:
        raise ExecutorError("UnsupportedSetting", f"inference.{asked} decides where an answer ends: leave out ignore_eos and min_tokens")
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise ExecutorError("MissingDependency", f'inference.{asked} needs the library llguidance: pip install "mloc[inference]"') from error
    if asked == "json_schema":
        grammar = _of_schema(inference.json_schema, LLMatcher)
    else:
        pattern = inference.regex if asked == "regex" else "|".join(re.escape(choice).replace("\n", "\\n") for choice in inference.choice or ())
        grammar = LLMatcher.grammar_from_regex(f"({pattern})")
    if said := LLMatcher.validate_grammar(grammar):
        raise ExecutorError("BadSchema", f"inference.{asked} is not one that answers can be held to: {said.strip()[:600]}")
    return str(grammar)


def _of_schema(schema: Any, matcher: Any) -> Any:
    try:
        given = msgspec.json.decode(schema) if isinstance(schema, str) else schema
        return matcher.grammar_from_json_schema(given, overrides={"whitespace_flexible": False})
    except (msgspec.MsgspecError, ValueError) as error:
        raise ExecutorError("BadSchema", f"inference.json_schema is no JSON schema: {error}") from error


class Vocabulary:
    """A tokenizer as llguidance needs it, and for each token how soon it brings an answer to its end. Made once for an engine."""

    def __init__(self, tokenizer: Any, size: int, ends: list[int]) -> None:
        """`size` is that of the model's scores, `ends` are the tokens that end an answer."""
        import torch
        from llguidance import hf

        try:
            self.tokenizer = hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=ends)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ExecutorError("UnsupportedSetting", f"structured output needs a fast tokenizer, and this model has none: {error}") from error
        self.ends = frozenset(ends)
        texts = [self.tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in range(size)]
        self._outside = torch.tensor([_rank(text, CLOSERS) for text in texts])
        self._in_text = torch.tensor([_rank(text, "") for text in texts])
        self._marks = [texts.index(mark) for mark in (*CLOSERS, '"') if mark in texts]

    def ranks(self, allowed: Any) -> Any:
        """[vocabulary]: lower is sooner to the end. Where a quote and every bracket may come, a text is open, and only the quote closes."""
        in_text = all(bool(allowed[mark]) for mark in self._marks)
        return (self._in_text if in_text else self._outside).masked_fill(~allowed, float("inf"))


class Guide:
    """What all answers of a task are held to."""

    def __init__(self, grammar: str, vocabulary: Vocabulary, max_tokens: int) -> None:
        from llguidance import LLMatcher

        self.vocabulary = vocabulary
        self.matcher = LLMatcher(vocabulary.tokenizer, grammar)
        self.max_tokens = max_tokens
        shortest = shortest_end(self.matcher, vocabulary, LONGEST_END)
        if shortest is None or len(shortest) > max_tokens:
            said = f"about {len(shortest)}" if shortest is not None else "very many"
            raise ExecutorError("BadSetting", f"inference.max_tokens is {max_tokens}, and the shortest answer that is asked for takes {said} tokens")
        self.watched = 4 * len(shortest) + 64  # so many tokens before the end a row begins to look for its way out


class GuidedRow:
    """One answer under way: `allowed`, `settled` and `take` for each token, until `ended`."""

    def __init__(self, guide: Guide, most: int) -> None:
        """`most`: tokens that this answer may have; fewer than the guide's where the model's context is full before."""
        self._guide = guide
        self._matcher = guide.matcher.deep_copy()
        self._left = most
        self._way_out: list[int] = []
        self.ended = False

    @property
    def complete(self) -> bool:
        """Whether the answer is what was asked for."""
        return bool(self._matcher.is_accepting())

    def allowed(self) -> Any:
        """[vocabulary] of bool: the tokens that may come next."""
        return _mask(self._matcher)

    def settled(self, token: int) -> int:
        """The token itself, or one that closes the answer where it would not fit any more."""
        if self._way_out:
            return self._way_out.pop(0)
        vocabulary = self._guide.vocabulary
        if self._left > self._guide.watched or token in vocabulary.ends:
            return token
        after = self._matcher.deep_copy()
        after.consume_token(token)
        if shortest_end(after, vocabulary, self._left - 1) is not None:
            return token
        self._way_out = shortest_end(self._matcher, vocabulary, self._left) or [token]
        return self._way_out.pop(0)

    def take(self, token: int) -> None:
        self._left -= 1
        if token in self._guide.vocabulary.ends:
            self.ended = True
        elif not self._matcher.consume_token(token):
            raise ExecutorError("Guidance", f"the answer cannot be held to what was asked: {self._matcher.get_error()[:300]}", retryable=True)
        elif self._left <= 0:
            self.ended = True


def shortest_end(matcher: Any, vocabulary: Vocabulary, limit: int) -> list[int] | None:
    """Tokens that complete the answer, without the one that ends it: what is forced, else what closes most. None where it takes more than
    `limit`. The same state gives the same tokens."""
    way: list[int] = []
    tried: Counter[int] = Counter()  # what was taken before brings less: it may go round in a circle
    ahead = matcher.deep_copy()
    while not ahead.is_accepting():
        tokens = ahead.compute_ff_tokens()
        if not tokens:
            ranks = vocabulary.ranks(_mask(ahead))
            for token, times in tried.items():
                ranks[token] += AGAIN * times
            tokens = [int(ranks.argmin())]
            if float(ranks[tokens[0]]) >= ORDINARY:
                tried[tokens[0]] += 1
        way += tokens
        if len(way) > limit or not ahead.consume_tokens(tokens):
            return None
    return way


def _mask(matcher: Any) -> Any:
    import torch

    return torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8) > 0


def _rank(text: str, closers: str) -> float:
    """Lower is sooner to the end: what closes, then a quote with what closes, then a digit, the start of a word, anything."""
    length = min(len(text), 50)
    if not text or "\ufffd" in text:
        return 900.0
    if closers and not text.strip(closers):
        return 50.0 - length
    if text[0] == '"' and not text[1:].strip(CLOSERS):
        return 150.0 - length
    if closers and text in (",", ',"'):  # on to what is still asked for
        return 190.0 - length
    if text.isdigit() and len(text) == 1:
        return ORDINARY
    return (300.0 if text[0].isalnum() else 400.0) - length
