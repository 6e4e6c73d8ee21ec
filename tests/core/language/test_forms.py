"""Forms in which one thing may be written: each ends in the same spec."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from task_files import task

from mloc.core.language.errors import LanguageError
from mloc.core.language.plan import Plan
from mloc.core.language.reading import read_tasks

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def plan_of(spec: str) -> Plan:
    return read_tasks(task(spec)).documents[0]


def spec_of(spec: str) -> Any:
    return msgspec.to_builtins(plan_of(spec).tasks[-1].spec)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("taskType: rag\nretrieval: {store: qdrant, qdrant: {url: u}, collection: c, embedding: {model: e}, search: {top_k: 3}}",
         "taskType: rag_inference\nhyperparameters: {qdrant: {url: u, collection: c}, embedding: {model_name: e}, search: {top_k: 3}}"),
        ("taskType: rag\nretrieval: {chunking: {size: 9, overlap: 2}}", "taskType: rag\nhyperparameters: {chunk_size: 9, chunk_overlap: 2}"),
        ("taskType: agent\nagent: {task: t, type: react, max_steps: 3, tools: [files]}",
         "taskType: agent_inference\ntask: t\nhyperparameters: {agent_type: react, max_iterations: 3, tools: [files]}"),
        ("taskType: lora_sft\nprompts: [a]\nmodel: {adapter: {r: 4}}", "taskType: sft\nprompts: [a]\nmodel: {lora: {rank: 4}}"),
        ("taskType: qlora\nprompts: [a]\nlora: {type: qlora}", "taskType: sft\nprompts: [a]\nmodel: {adapter: {type: qlora}}"),
        ("taskType: inference\nprompts: [a]\ninference: {min_tokens: 1, stop: x, json_schema: {}}",
         "taskType: inference\nprompts: [a]\ninference: {min_new_tokens: 1, stop_strings: x, guided_json: {}}"),
    ],
)  # fmt: skip
def test_older_and_shorter_forms_mean_the_same(one: str, other: str) -> None:
    assert spec_of(one) == spec_of(other)


@pytest.mark.parametrize("model", ["reward_model: {source: {type: stage, identifier: judge}}", "reward_model: {type: trained, identifier: judge}"])
def test_a_reward_model_may_be_an_earlier_stage(model: str) -> None:
    plan = plan_of(f"""
graph:
  - {{name: judge, spec: {{taskType: reward, data: {{jsonl: a.jsonl}}}}}}
  - {{name: tune, spec: {{taskType: ppo, prompts: [a], {model}}}}}""")
    assert plan.tasks[2].depends_on == ("judge",)
    source = plan.tasks[2].spec.reward_model
    assert source is not None
    assert source.source is not None
    assert source.source.path == "${judge.result.final_model_path}"  # type: ignore[union-attr]


def test_a_stage_may_refer_to_a_task_submitted_before() -> None:
    plan = plan_of("""
dependsOn: [corpus]
stages:
  - {name: a, spec: {taskType: echo}}
  - {name: b, spec: {taskType: echo, dependsOn: [other], data: {items: ['${corpus.result.x} ${other.result.y}']}}}
  - {name: c, spec: {taskType: echo}}""")
    assert [(task.depends_on, task.external) for task in plan.tasks[1:]] == [((), ("corpus",)), (("a",), ("other", "corpus")), (("b",), ())]


@pytest.mark.parametrize("content", [
    "{type: text, text: what is it?}", "{type: image_url, image_url: {url: a.png}}", "{type: image_url, image_url: https://h/a.png}",
    f"{{type: image_url, image_url: {{url: '{IMAGE}'}}}}", "{type: input_audio, input_audio: {data: AAAA, format: wav}}",
    "{type: video_url, video_url: {url: file:///v.mp4}}", "{type: image, url: a.png}", "{type: audio, audio: a.wav}",
])  # fmt: skip
def test_images_sounds_and_films_are_taken_in_rows_and_turns(content: str) -> None:
    assert spec_of(f"taskType: inference\ndata: {{items: [{{content: [{content}]}}]}}")
    assert spec_of(f"taskType: inference\ndata: {{messages: [{{role: user, content: [{content}]}}]}}")
    assert spec_of(f"taskType: inference\ndata: {{items: [[{{role: user, content: [{content}]}}]]}}")


@pytest.mark.parametrize(("content", "said"), [
    ("{type: imge_url}", 'did you mean "image_url"?'),
    ("{type: image_url}", "does not say where the image is"),
    ("{type: text}", '"text" is missing'),
    ("{type: image_url, image_url: {url: 'data:image/png,x'}}", "is no data URI"), ("{type: input_audio, input_audio: x}", "holds no audio"),
    (f"{{type: video_url, video_url: '{IMAGE}'}}", "holds no video"),
])  # fmt: skip
def test_content_that_cannot_be_meant_is_refused_with_its_place(content: str, said: str) -> None:
    with pytest.raises(LanguageError) as caught:
        spec_of(f"taskType: inference\ndata: {{items: [{{content: [{{type: text, text: a}}, {content}]}}]}}")
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert problem.path.startswith("spec.data.items[0].content[1]")
