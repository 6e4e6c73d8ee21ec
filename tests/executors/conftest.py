from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driven_host import VLLM_DEADLINE_SEC, DrivenHost

from mloc.core.language.model_spec import ScratchSource


@pytest.fixture
def host() -> Iterator[Callable[..., DrivenHost]]:
    """Starts hosts; ends them after the test."""
    started: list[DrivenHost] = []

    def start(**options: bool) -> DrivenHost:
        started.append(DrivenHost(**options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def warm_host() -> Iterator[DrivenHost]:
    """One host for a module's tests, so that the libraries are imported once."""
    driven = DrivenHost()
    yield driven
    driven.close()


@pytest.fixture(scope="module")
def vllm_host() -> Iterator[DrivenHost]:
    """The same, for as long as engines of vLLM take to start."""
    driven = DrivenHost(deadline_sec=VLLM_DEADLINE_SEC)
    yield driven
    driven.close()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model whose weights are random but always the same: it answers nonsense, at length."""
    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("random_model")
    source = ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, max_position_embeddings=256)
    model, tokenizer = make_scratch_model(source, ["the quick brown fox jumps over the lazy dog"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seeing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of random weights that takes images beside text."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from mloc.executors.models.scratch_model import make_scratch_model

    folder = tmp_path_factory.mktemp("seeing_model")
    source = ScratchSource(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, chat_template=_SEEING_TURNS)
    _, tokenizer = make_scratch_model(source, ["what does the quick brown fox see in the picture?"])
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    marks = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8), image_seq_length=4, vision_feature_layer=-1,
        text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.3, **marks),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=_SEEING_TURNS, num_additional_image_tokens=1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


_SEEING_TURNS = (
    "{% for turn in messages %}<|{{ turn.role }}|>{% for part in turn.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}\n"
    "{% endfor %}<|assistant|>"
)
