"""One key for placement, which sees references, and for the host, which sees what they stand for."""

import json
from typing import Any

from mloc.core.needs.engine_key import TRAINING_LIBRARIES, engine_key, is_shared


def key(task_type: str = "inference", stages: dict[str, str] | None = None, **spec: Any) -> str:
    return engine_key(task_type, json.dumps({"taskType": task_type, **spec}).encode(), stages or {})


def local(folder: str, **model: Any) -> dict[str, Any]:
    return {"source": {"type": "local", "identifier": folder}, **model}


def test_tasks_on_the_same_model_share_a_key_whatever_else_they_ask() -> None:
    assert key(model=local("/m"), inference={"max_tokens": 1}) == key(model=local("/m"), data={"type": "list", "items": ["a"]})


def test_another_model_or_setting_has_another_key() -> None:
    models = [local("/m"), local("/n"), local("/m", transformers={"dtype": "float16"}), local("/m", adapters=[{"path": "/a"}])]
    assert len({key(model=model) for model in models} | {key(model=local("/m"), enforce_cpu=True)}) == 5


def test_a_stage_has_the_same_key_before_and_after_its_references_are_resolved() -> None:
    written = {"type": "stage", "identifier": "train", "path": "${train.result.final_model_path}", "taskId": "${train.task_id}"}
    resolved = {"type": "stage", "identifier": "train", "path": "/results/t1.train/artifacts/final_model", "taskId": "t1.train"}
    keys = {key(stages={"train": "t1.train"}, model={"source": source}) for source in (written, resolved)}
    assert len(keys) == 1
    assert key(stages={"train": "t2.train"}, model={"source": written}) not in keys


def test_weights_that_a_task_starts_from_are_another_engine() -> None:
    keys = [key(model=local("/m"), **more) for more in ({}, {"checkpoint": {"load": {"path": "/c"}}}, {"checkpoint": {"load": {"path": "/d"}}})]
    assert len(set(keys)) == 3
    assert key(model=local("/m"), checkpoint={}) == keys[0]


def test_trainings_share_their_libraries_and_an_echo_keeps_nothing_warm() -> None:
    assert key("sft", model=local("/m")) == key("lora_sft") == TRAINING_LIBRARIES
    assert key("echo") == ""


def test_pooling_and_retrieval_have_engines_of_their_own_by_the_models_that_they_name() -> None:
    kinds = [key(kind, model=local("/m")) for kind in ("inference", "embed", "score", "rerank", "rag")]
    assert len(set(kinds)) == 5
    same = [key("rag", model=local("/m"), retrieval={"embedding": {"model": "e"}, **more}) for more in ({}, {"documents": ["a"], "store": "qdrant"})]
    assert len(set(same)) == 1
    assert key("rag", model=local("/m"), retrieval={"embedding": {"model": "f"}}) != same[0]
    assert key("rag", model=local("/m"), retrieval={"embedding": {"model": "e", "query_prompt": "ask: "}}) != same[0]
    assert key("rag", model=local("/m"), retrieval={"embedding": {"model": "e"}, "search": {"rerank": "r"}}) != same[0]


def test_what_vllm_answers_is_one_engine_for_all_that_ask_questions_and_another_where_more_is_loaded_beside_it() -> None:
    asked = {"model": local("/m", vllm={"dtype": "float32"})}
    assert key(**asked) == key("agent", **asked) == key("eval", **asked)
    assert is_shared(key("agent", **asked))
    assert not any(is_shared(key(kind, **asked)) for kind in ("rag", "embed", "score", "rerank"))
    for kind in ("agent", "rag", "embed"):
        assert key(kind, model=local("/m"), inference={"engine": "vllm"}) != key(kind, model=local("/m"))
