"""A model made from nothing: a tokenizer trained on given text, and random weights of the sizes that the task asks for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from mloc.core.language.model_spec import ScratchSource
from mloc.executors.contract import ExecutorError
from mloc.executors.models.chat_templates import BEGIN, END, PAD, SPECIAL_TOKENS, TURNS
from mloc.executors.rows.row_files import find_file, read_rows

Head = Literal["causal", "score", "none"]
_CLASSES = {"causal": "AutoModelForCausalLM", "score": "AutoModelForSequenceClassification", "none": "AutoModel"}


def make_scratch_model(source: ScratchSource, task_texts: Iterable[str], head: Head = "causal") -> tuple[Any, Any]:
    """(model, tokenizer). The same source and texts give the same weights. `task_texts`: for the tokenizer where the source has none.

    `head`: what is on top: the next token's scores, one number for a text, or nothing (an encoder)."""
    import torch
    import transformers

    tokenizer = _train_tokenizer(source, list(_tokenizer_texts(source) or task_texts))
    config = _config(source, tokenizer)
    if head == "score":
        config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        return getattr(transformers, _CLASSES[head]).from_config(config), tokenizer


def _tokenizer_texts(source: ScratchSource) -> list[str]:
    given = source.tokenizer_text
    if given is None:
        return []
    if not isinstance(given, str):
        return list(given)
    if not Path(given[:4096]).suffix or "\n" in given:
        return [given]
    return [text for row in read_rows(find_file(given)) for text in row.values() if isinstance(text, str)]


def _train_tokenizer(source: ScratchSource, texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if not texts:
        raise ExecutorError("NoData", "model.source of type scratch has no text to train its tokenizer on; give it tokenizer_text")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(SPECIAL_TOKENS)
    if source.vocab_size < smallest:
        raise ExecutorError("BadModel", f"model.source.vocab_size {source.vocab_size} is too small: every byte and mark takes {smallest}")
    trainer = trainers.BpeTrainer(vocab_size=source.vocab_size, special_tokens=[*SPECIAL_TOKENS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END, padding_side="left",
        chat_template=source.chat_template or TURNS, model_max_length=source.max_position_embeddings,
    )  # fmt: skip


def _config(source: ScratchSource, tokenizer: Any) -> Any:
    from transformers import CONFIG_MAPPING

    if source.architecture not in CONFIG_MAPPING:
        near = difflib.get_close_matches(source.architecture, list(CONFIG_MAPPING), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ExecutorError("BadModel", f"model.source.architecture {source.architecture!r} is no model type of transformers{hint}")
    heads = source.num_attention_heads
    if source.head_dim is None and source.hidden_size % heads:
        raise ExecutorError("BadModel", f"model.source.hidden_size {source.hidden_size} cannot be divided among num_attention_heads {heads}")
    sizes = {
        "hidden_size": source.hidden_size,
        "intermediate_size": source.intermediate_size or 2 * source.hidden_size,
        "num_hidden_layers": source.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": source.num_key_value_heads or heads,
        "head_dim": source.head_dim or source.hidden_size // heads,
        "max_position_embeddings": source.max_position_embeddings,
        "tie_word_embeddings": source.tie_word_embeddings,
    }
    marks = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return CONFIG_MAPPING[source.architecture](vocab_size=len(tokenizer), **{**sizes, **marks, **source.config})
