"""What TRL really learns from: the labels that its collators make of our examples, by kind of data and by setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context

pytestmark = [pytest.mark.models, pytest.mark.deep]

CHAT = [
    {"messages": [{"role": "user", "content": "one and two"}, {"role": "assistant", "content": "three"}, {"role": "user", "content": "and four"},
                  {"role": "assistant", "content": "seven"}]},
]  # fmt: skip
PAIR = [{"prompt": "one and two", "response": "three"}]
TEXT = ["one and two is three", "and four is seven"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mloc.core.language.model_spec import ScratchSource
    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("labels")
    source = ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=320, max_position_embeddings=256)
    made, tokenizer = make_scratch_model(source, ["one and two is three and four is seven", "yes no"])
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trainer_of(model: Path, folder: Path, task_type: str, items: list[Any], **training: Any) -> tuple[Any, Any]:
    """(trainer, tokenizer) as a task of that kind would have them."""
    from mloc.executors.rows.data_loading import examples, load_rows
    from mloc.executors.training import dpo_executor, sft_executor
    from mloc.executors.training.preferences import preference_examples
    from mloc.executors.training.training_settings import trainer_config
    from mloc.executors.training.trl_training import Prepared, Recipe, _trainer, load_trainable

    spec: TaskSpec = decode_spec(msgspec.json.encode({
        "taskType": task_type, "model": {"source": {"type": "local", "identifier": str(model)}}, "data": {"type": "list", "items": items},
        "training": {"per_device_train_batch_size": 8, "max_steps": 1, "logging_steps": 1, "save_strategy": "no", **training},
    }))  # fmt: skip
    context = Context(
        folder=folder, final_folder=folder, rows_folder=folder, inputs={}, devices=(), shard=None, checkpoint=None, seed=0,
        stopping=lambda: False, report=lambda said: None,
    )  # fmt: skip
    import trl

    made, config_class = (preference_examples, trl.DPOConfig) if task_type == "dpo" else (examples, trl.SFTConfig)
    executor = dpo_executor if task_type == "dpo" else sft_executor
    recipe = Recipe(config_class, made, executor._trainer, needs_reference=task_type == "dpo")
    config, _ = trainer_config(config_class, spec, context)
    rows = list(load_rows(spec, context))
    loaded = load_trainable(spec, context, ())
    given = {"args": config, "processing_class": loaded.tokenizer, "callbacks": []}
    prepared = Prepared(RunTask("t", 1, task_type, b"{}"), spec, context, rows, made(rows), given)
    return _trainer(loaded, prepared, recipe), loaded.tokenizer


def learned(trainer: Any, tokenizer: Any) -> list[str]:
    """Of each sequence of the first batch, the text whose tokens have labels."""
    batch = next(iter(trainer.get_train_dataloader()))
    return [tokenizer.decode([token for token in row if token >= 0]) for row in batch["labels"].tolist()]


def test_of_a_pair_only_the_answer_is_learned(model: Path, tmp_path: Path) -> None:
    assert learned(*trainer_of(model, tmp_path, "sft", PAIR)) == ["three<|end|>"]


def test_of_a_pair_all_is_learned_when_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    (text,) = learned(*trainer_of(model, tmp_path, "sft", PAIR, completion_only_loss=False))
    assert "one and two" in text
    assert text.endswith("three<|end|>")


def test_of_a_chat_all_turns_are_learned_or_only_those_of_the_assistant(model: Path, tmp_path: Path) -> None:
    (text,) = learned(*trainer_of(model, tmp_path, "sft", CHAT))
    assert "one and two" in text
    assert learned(*trainer_of(model, tmp_path, "sft", CHAT, assistant_only_loss=True)) == ["three<|end|>seven<|end|>"]


def test_of_a_text_all_is_learned(model: Path, tmp_path: Path) -> None:
    texts = learned(*trainer_of(model, tmp_path, "sft", TEXT))
    assert [text.replace("<|end|>", "") for text in sorted(texts)] == sorted(TEXT)


def test_packed_texts_share_a_sequence_and_each_starts_at_its_own_place(model: Path, tmp_path: Path) -> None:
    trainer, tokenizer = trainer_of(model, tmp_path, "sft", TEXT, packing=True, max_length=64)
    batch = next(iter(trainer.get_train_dataloader()))
    whole = tokenizer.decode(batch["input_ids"][0])
    assert all(text in whole for text in TEXT)
    starts = [at for at, place in enumerate(batch["position_ids"][0].tolist()) if place == 0]
    assert len(starts) == 2


def test_of_a_pair_of_answers_only_the_answers_count(model: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": "one and two", "chosen": "three", "rejected": "seven"}]
    trainer, tokenizer = trainer_of(model, tmp_path, "dpo", pairs)
    batch = next(iter(trainer.get_train_dataloader()))
    kept = [
        tokenizer.decode([token for token, counts in zip(row, mask, strict=True) if counts])
        for row, mask in zip(batch["input_ids"].tolist(), batch["completion_mask"].tolist(), strict=True)
    ]
    assert kept == ["three<|end|>", "seven<|end|>"]


LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
    "sft", "sigmoid_norm",
)  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_of_dpo_takes_a_step(model: Path, tmp_path: Path, loss: str) -> None:
    import math

    pairs = [{"prompt": "one and two", "chosen": "yes", "rejected": "no"}] * 8
    more = {"label_smoothing": 0.1} if loss in ("robust", "exo_pair") else {}
    trainer, _ = trainer_of(model, tmp_path, "dpo", pairs, loss_type=loss, **more)
    assert math.isfinite(trainer.train().training_loss)
