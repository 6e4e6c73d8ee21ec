"""Rows with images, answered by vLLM on the CPU with a tiny model of a kind that it takes, through a real host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driven_host import VLLM_DEADLINE_SEC, DrivenHost, task
from pipeline_run import published_result
from test_images import BLUE, RED, asking, data_uri, header_of_a_png, png

from mloc.core.language.model_spec import ScratchSource
from mloc.executors.inference.engine_choice import vllm_missing

MISSING = vllm_missing(on_device=False)
pytestmark = [
    pytest.mark.models, pytest.mark.deep, pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=MISSING or "vLLM is there"),
]  # fmt: skip

ENGINE = {"max_model_len": 256, "enforce_eager": True, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}
TURNS = (
    "{% for turn in messages %}<|{{ turn.role }}|>{% for part in turn.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}\n"
    "{% endfor %}<|assistant|>"
)
MARKS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]


@pytest.fixture(scope="module")
def seeing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Idefics 3 of random weights."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("seeing_model")
    source = ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, chat_template=TURNS)
    _, tokenizer = make_scratch_model(source, ["what does the quick brown fox see in the picture?"])
    tokenizer.add_tokens(MARKS, special_tokens=True)
    marks = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.3, **marks)
    config = Idefics3Config(
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, text_config=text.to_dict(), scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=False, **marks,
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TURNS).save_pretrained(folder)
    return folder


def said(item: dict[str, Any]) -> str | None:
    """Its answer, without a character that the last token leaves unfinished: vLLM leaves that out."""
    return item["output"].rstrip("\ufffd") if "output" in item else None


def test_images_are_seen_as_transformers_sees_them(seeing_model: Path, tmp_path: Path) -> None:
    red, blue = data_uri(png(RED)), data_uri(png(BLUE, (16, 50)))
    (tmp_path / "blue.png").write_bytes(png(BLUE))
    rows = [
        asking(red), asking(str(tmp_path / "blue.png")), "what is it?", asking(red, blue, text="which is larger?"), asking(),
        asking(data_uri(header_of_a_png(20_000, 20_000))), asking(str(tmp_path / "nowhere.png")),
    ]  # fmt: skip
    host = DrivenHost(deadline_sec=VLLM_DEADLINE_SEC)

    def ask(name: str, engine: str) -> list[dict[str, Any]]:
        model = {"source": {"type": "local", "identifier": str(seeing_model)}, "vllm": ENGINE, "transformers": {"dtype": "float32"}}
        settings = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "engine": engine}
        host.send(task(name, "inference", tmp_path, model=model, data={"type": "list", "items": rows}, inference=settings))
        result = published_result(host, name, tmp_path)
        assert result["engine"]["name"] == engine
        items: list[dict[str, Any]] = result["items"]
        return items

    try:
        seen, expected = ask("seen", "vllm"), ask("expected", "transformers")
    finally:
        host.close()
    assert [said(item) for item in seen] == [said(item) for item in expected]
    assert [item.get("usage", {}).get("prompt_tokens") for item in seen] == [item.get("usage", {}).get("prompt_tokens") for item in expected]
    assert len({said(seen[at]) for at in (0, 1, 2, 3)}) == 4
    assert seen[4]["output"] == seen[2]["output"]
    assert [item.get("error", {}).get("type") for item in seen] == [None] * 5 + ["ImageTooLarge", "NoImage"]
