"""Task files that follow the language are read into what executors and placement take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from task_files import HEAD, VALID, task

from mloc.core.language.data_spec import DatasetData, JsonlData, ListData
from mloc.core.language.errors import LanguageError
from mloc.core.language.findings import Findings
from mloc.core.language.inference_spec import Inference
from mloc.core.language.model_spec import HuggingFaceSource, StageSource
from mloc.core.language.plan import PlannedTask, ReadResult
from mloc.core.language.reading import read_tasks
from mloc.core.language.shorthands import Rewritten
from mloc.core.language.spec import TaskSpec, decode_spec, encode_spec
from mloc.core.language.task_reading import _quickly, _thoroughly


def read(spec: str, **options: Any) -> ReadResult:
    return read_tasks(task(spec), "t.yaml", **options)


def spec_of(spec: str) -> TaskSpec:
    return read(spec).documents[0].tasks[0].spec


def tasks_of(name: str) -> tuple[PlannedTask, ...]:
    return read(VALID[name]).documents[0].tasks


@pytest.mark.parametrize("name", VALID)
def test_a_file_of_the_language_is_accepted_and_its_specs_survive_the_log(name: str) -> None:
    result = read(VALID[name])

    assert result.documents[0].metadata.owner == "ada"
    for planned in result.documents[0].tasks:
        assert decode_spec(encode_spec(planned.spec)) == planned.spec


@pytest.mark.parametrize("name", VALID)
def test_a_right_file_gives_no_warning(name: str) -> None:
    assert [str(warning) for warning in read(VALID[name]).warnings] == []


def test_the_short_way_and_the_walk_read_alike() -> None:
    taken = 0
    for name in VALID:
        for planned in tasks_of(name):
            plain = msgspec.json.decode(encode_spec(planned.spec))
            quick = None if planned.spec.deferred else _quickly(plain)
            if quick is not None:
                taken += 1
                findings = Findings()
                assert _thoroughly(Rewritten(plain), findings) == quick, name
                assert findings.problems == findings.warnings == []
    assert taken > 20


def test_shorthands_become_the_one_present_form() -> None:
    assert spec_of(VALID["prompts below inference"]).data == ListData(items=("one",))
    assert spec_of(VALID["prompts below inference"]).inference == Inference(max_tokens=8, chat="on", stop="END")
    assert spec_of(VALID["older trainer names"]).data == JsonlData(path="a.jsonl")
    assert spec_of(VALID["older trainer names"]).training == {
        "per_device_train_batch_size": 2, "max_steps": 5, "save_steps": 10, "max_length": 64,
    }  # fmt: skip
    assert spec_of(VALID["numbers as text and without a dot"]).training == {"learning_rate": 1e-4, "max_steps": 60, "packing": True}
    assert isinstance(dataset := spec_of(VALID["a dataset"]).data, DatasetData)
    assert (dataset.identifier, dataset.name) == ("org/set", "en")
    assert spec_of(VALID["a hub model"]).model.source == HuggingFaceSource(identifier="org/m")
    agent = spec_of(VALID["an agent of older form"])
    assert (agent.task_type, agent.agent) == ("agent", {"config_name": "small", "task": "sum up", "type": "react", "tools": ["python_repl"]})
    retrieval = spec_of(VALID["retrieval of older form"]).retrieval
    assert retrieval is not None
    assert (retrieval.embedding.model, retrieval.store, retrieval.search.top_k) == ("e", "qdrant", 3)
    times = spec_of(VALID["times and retries"])
    assert (times.slo.latency_sec, times.slo.priority, times.depends_on) == (30, 90, ("other",))


def test_an_adapter_makes_the_task_type() -> None:
    assert tasks_of("an adapter beside the model")[0].task_type == "qlora"
    assert read("taskType: sft\ndata: {prompts: [a]}\nmodel: {adapter: {r: 4}}").documents[0].tasks[0].task_type == "lora_sft"


def test_quantities_become_cores_and_bytes() -> None:
    hardware = spec_of(VALID["quantities"]).resources.hardware

    assert hardware.gpu is not None
    assert (hardware.cpu, hardware.memory, hardware.gpu.count, hardware.gpu.memory) == (0.5, 32 << 30, 2, 16 << 30)


def test_words_that_older_yaml_took_for_switches_stay_text_in_prompts() -> None:
    spec = spec_of("taskType: inference\ndata: {prompts: [yes, no, on, 007, 12:30]}")
    assert spec.data == ListData(items=("yes", "no", "on", "007", "12:30"))


def test_a_pipeline_is_its_parent_and_then_its_stages() -> None:
    parent, first, second = tasks_of("stages in a chain")

    assert (parent.suffix, parent.role, parent.task_type, parent.children) == ("", "pipeline", "", ("a", "b"))
    assert (first.suffix, first.role, first.depends_on) == ("a", "stage", ())
    assert (second.id("42"), second.depends_on) == ("42.b", ("a",))


def test_the_nodes_of_a_graph_come_in_an_order_to_run_and_references_are_dependencies() -> None:
    assert [(one.suffix, one.depends_on) for one in tasks_of("a graph")[1:]] == [("a", ()), ("b", ("a",)), ("c", ("a", "b"))]
    assert [(one.suffix, one.depends_on) for one in tasks_of("a template over stages")[1:]] == [("a-b", ()), ("sum", ("a-b",))]


def test_a_stage_as_model_source_refers_to_its_weights() -> None:
    source = tasks_of("a model of an earlier stage")[2].spec.model.source
    assert source == StageSource(
        identifier="train", path="${train.result.final_model_path}", url="${train.result.final_model_archive_url}", task_id="${train.task_id}"
    )


def test_a_stage_is_merged_over_what_all_share() -> None:
    shared, own = read("""
taskType: inference
data: {prompts: [a, b]}
inference: {max_tokens: 5, temperature: 0.5}
output: {destination: {path: runs}}
parallel: {shards: 2}
dependsOn: [before]
stages:
  - {name: one}
  - {name: two, spec: {inference: {max_new_tokens: 9}, data: {jsonl: {path: x}}, parallel: null, output: {destination: {path: else}}}}
""").documents[0].tasks[1:]

    assert shared.spec.inference == Inference(max_tokens=5, temperature=0.5)
    assert own.spec.inference == Inference(max_tokens=9, temperature=0.5)
    assert (shared.spec.data, own.spec.data) == (ListData(items=("a", "b")), JsonlData(path="x"))
    assert shared.spec.parallel is not None
    assert own.spec.parallel is None
    assert shared.spec.output.destination is not None
    assert own.spec.output.destination is not None
    assert (shared.spec.output.destination.path, own.spec.output.destination.path) == ("runs/one", "else")
    assert (shared.external, own.external) == (("before",), ())


def test_a_number_that_is_a_reference_waits_apart() -> None:
    spec = tasks_of("a reference in the place of a number")[2].spec

    assert spec.inference.max_tokens is None
    assert [(one.path, one.reference) for one in spec.deferred] == [(("inference", "max_tokens"), "${a.result.n}")]
    assert spec.training == {"seed": "${a.result.s}"}


def test_overrides_are_put_over_every_document() -> None:
    text = task("taskType: echo\nretry: {max_attempts: 2}") + "---\n" + task("taskType: echo")

    plans = read_tasks(text, overrides={"spec.retry.max_attempts": "5", "metadata.name": "n"}).documents

    assert [(plan.metadata.name, plan.tasks[0].spec.retry.max_attempts) for plan in plans] == [("n", 5), ("n", 5)]


@pytest.mark.parametrize(("overrides", "message"), [
    ({"spec.retry.max_attempts": "many"}, "spec.retry.max_attempts"),
    ({"spec.retry[0]": "1"}, "holds no"),
    ({"retry": "1"}, "write spec."),
    ({"spec.": "1"}, "no path"),
    ({"spec.retry": "[1"}, "broken YAML"),
])  # fmt: skip
def test_an_override_that_does_not_fit_is_said(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(LanguageError) as caught:
        read("taskType: echo\nretry: {max_attempts: 2}", overrides=overrides)
    assert message in str(caught.value)


def test_what_an_override_got_wrong_is_placed_at_the_override_and_not_in_the_file() -> None:
    # given a file that is right but for its own key, and overrides with a key that is not known and a value that is too small
    overrides = {"spec.retry.max_attempts": "0", "spec.fooo": "1"}
    # when it is read
    with pytest.raises(LanguageError) as caught:
        read("taskType: echo\nretry: {backoff_sec: -1}", overrides=overrides)
    # then each problem stands where a person wrote it
    places = {problem.path: (problem.source, problem.line > 0) for problem in caught.value.problems}
    assert places == {
        "spec.retry.backoff_sec": ("t.yaml", True), "spec.retry.max_attempts": ("--set", False), "spec.fooo": ("--set", False),
    }  # fmt: skip


def test_plug_in_types_are_accepted_when_named_and_warned_about_when_not() -> None:
    assert read("taskType: folding", plugin_types=frozenset({"folding"})).warnings == ()
    (warning,) = read("taskType: protein_folding").warnings
    assert "waits until a worker offers it" in warning.hint


@pytest.mark.parametrize(("spec", "parts"), [
    ("training: {optimize_cuda_cache: true}", ('"optimize_cuda_cache" has no effect', "t.yaml:6:")),
    ("training: {steps: 5, max_steps: 6}", ('"steps" is ignored', "max_steps")),
    ("training: {lerning_rate: 1}", ("not known here", 'did you mean "learning_rate"?')),
    ("inference: {max_tokens: 5, max_new_tokens: 6}", ('"max_new_tokens" is ignored',)),
    ("training: {seed: 1}\nhyperparameters: {seed: 2}", ("its present place",)),
    ("model: {vllm: {swap_space: 4}}", ("no library takes it any more",)),
])  # fmt: skip
def test_what_has_no_effect_is_a_warning(spec: str, parts: tuple[str, ...]) -> None:
    (warning,) = read(f"taskType: echo\n{spec}").warnings
    for part in parts:
        assert part in str(warning)


def test_json_is_read_as_well() -> None:
    result = read_tasks(b'{"apiVersion": "mloc/v1", "kind": "T", "spec": {"taskType": "echo"}}')
    assert result.documents[0].tasks[0].task_type == "echo"


def test_empty_documents_are_passed_over() -> None:
    assert len(read_tasks("---\n---\n" + HEAD + "  taskType: echo\n---\n").documents) == 1
