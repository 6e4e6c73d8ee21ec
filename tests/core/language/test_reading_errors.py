"""What is wrong in a task file is said with its place, all of it at once, and nothing else than LanguageError is ever raised."""

from __future__ import annotations

import pickle
import time

import msgspec
import pytest
from task_files import HEAD, task

from mloc.core.language.errors import LanguageError, Problem
from mloc.core.language.reading import read_tasks

STAGES = "stages:\n  - {name: a, spec: {taskType: echo}}\n  - "

BROKEN: list[tuple[str, str, tuple[str, ...]]] = [
    # the spec, line:column of the first problem, parts of the message
    ("taskType: infernce", "5:13", ("spec.taskType", 'found "infernce"', 'did you mean "inference"?')),
    ("resources: {}", "5:3", ('"taskType" is missing', "spec:")),
    ("taskType: 5", "5:13", ('put quotes around it: "5"',)),
    ("taskType: [echo]", "5:13", ("accepted: text",)),
    ("taskType: echo\ntypo: 1", "6:3", ('the key "typo" is not known', "accepted: taskType")),
    ("taskType: echo\nmax_tokens: 4", "6:3", ("it belongs to spec.inference",)),
    ("taskType: echo\ndeferred: []", "6:3", ('the key "deferred" is not known',)),
    ("taskType: echo\ntaskType: echo", "6:3", ('the key "taskType" appears twice',)),
    ("taskType: echo\nresources: {hardware: {memory: 4Q}}", "6:34", ("is no quantity", '"4Q"', "32Gi")),
    ("taskType: echo\nresources: {hardware: {cpu: true}}", "6:31", ("is no quantity", "500m")),
    ("taskType: echo\nresources: {hardware: {gpu: 1}}", "6:31", ("accepted: a mapping with type, count, memory",)),
    ("taskType: echo\nresources: {replicas: 0}", "6:25", ("is too small", "≥ 1")),
    ("taskType: echo\nresources: [a]", "6:14", ("found a list of 1", "a mapping with replicas")),
    ("taskType: echo\nenforce_cpu: maybe", "6:16", ("accepted: true or false",)),
    ("taskType: echo\nslo: {priority: 101}", "6:19", ("is too large", "≤ 100")),
    ("taskType: echo\nslo: {priority: high}", "6:19", ("a whole number",)),
    ("taskType: echo\nslo: {priority: '${a.result.p}'}", "6:19", ("may not be a reference", "before any stage has run")),
    ("taskType: echo\nretry: {max_attempts: 1.5}", "6:25", ("found 1.5", "a whole number")),
    ("taskType: echo\nretry: {backoff: 3}", "6:11", ('did you mean "backoff_sec"?',)),
    ("taskType: echo\ntimeout_sec: 0", "6:16", ("is too small", "> 0")),
    ("taskType: inference", "5:3", ("needs data",)),
    ("taskType: sft", "5:3", ("a task of type sft needs data",)),
    ("taskType: echo\ndata: {}", "6:9", ("does not say what it is", "type: list, dataset")),
    ("taskType: echo\ndata: {type: lst}", "6:16", ('did you mean "list"?',)),
    ("taskType: echo\ndata: {prompts: []}", "6:9", ("holds no rows",)),
    ("taskType: echo\ndata: {prompts: [a, [b]]}", "6:23", ("is no row", "a text or a mapping")),
    ("taskType: echo\ndata: {type: dataset, split: train}", "6:9", ("names no dataset",)),
    ("taskType: echo\ndata: {jsonl: {prompt_field: p}}", "6:9", ("names no file",)),
    ("taskType: echo\ndata: {jsonl: {path: p, promt_field: p}}", "6:27", ('did you mean "prompt_field"?',)),
    ("taskType: echo\ndata: {preferences: [{prompt: a, chosen: b}]}", "6:24", ("lacks rejected",)),
    ("taskType: echo\ndata: {messages: [hi]}", "6:21", ("is no chat turn",)),
    ("taskType: inference\ndata: {prompts: [a]}\ninference: {temprature: 1}", "7:15", ('did you mean "temperature"?', "max_tokens")),
    ("taskType: inference\ndata: {prompts: [a]}\ninference: {top_p: 1.5}", "7:22", ("> 0 and ≤ 1",)),
    ("taskType: inference\ndata: {prompts: [a]}\ninference: {chat: sometimes}", "7:21", ("auto, off, on",)),
    ("taskType: inference\ndata: {prompts: [a]}\ninference: {regex: a, choice: [b]}", "7:33", ("together with regex",)),
    ("taskType: echo\nmodel: {source: {type: hugingface, identifier: a}}", "6:26", ('did you mean "huggingface"?',)),
    ("taskType: echo\nmodel: {source: {type: local}}", "6:19", ('"identifier" is missing',)),
    ("taskType: echo\nmodel: {source: {type: stage}}", "6:19", ("names no stage",)),
    ("taskType: echo\nmodel: {source: {type: scratch, hidden_size: 10, num_heads: 3}}", "6:63", ("does not divide hidden_size",)),
    ("taskType: echo\nmodel: {adapters: [{name: a}]}", "6:22", ("path, url or taskId",)),
    ("taskType: echo\nmodel: {adapter: {bias: some}}", "6:27", ("all, lora_only, none",)),
    ("taskType: echo\nlora: {rnk: 4}", "6:10", ("spec.lora.rnk", 'did you mean "rank"?')),
    ("taskType: echo\ntraining: {learning_rate: fast}", "6:29", ("spec.training.learning_rate", "a number")),
    ("taskType: echo\nhyperparameters: {batch_size: big}", "6:33", ("spec.hyperparameters.batch_size", "a whole number")),
    ("taskType: echo\ntraining: 5", "6:13", ("found 5",)),
    ("taskType: echo\nrewards: [{weight: 1}]", "6:13", ('"type" is missing', "accuracy")),
    ("taskType: echo\noutput: {destination: {path: ../../etc}}", "6:32", ("leads out of the results folder",)),
    ("taskType: echo\noutput: {destination: {type: http}}", "6:25", ('"url" is missing',)),
    ("taskType: echo\noutput: {artifacts: [/etc/passwd]}", "6:24", ("leads out of the task's folder",)),
    ("taskType: echo\ncheckpoint: {load: {type: local}}", "6:22", ("path, url or taskId",)),
    ("taskType: echo\nnotify: {}", "6:11", ('"url" is missing',)),
    ("notify: {headers: {a: b}}\nstages: [{name: a, spec: {taskType: echo}}]", "5:11", ("spec.notify", '"url" is missing')),
    ("taskType: echo\nmodel: {source: {identifier: '${env.}'}}", "6:32", ("is no reference",)),
    ("taskType: echo\nmodel: {source: {identifier: '${secret.a}'}}", "6:32", ("cannot be written",)),
    ("taskType: echo\ndata: {prompts: ['${b.result.x}']}", "6:20", ('unknown stage "b"', "no earlier stages")),
    ("stages: []", "5:11", ("holds no stages",)),
    ("stages: {a: 1}", "5:11", ("a list of {name, dependsOn, spec}",)),
    ("stages: [{name: a}]\ngraph: {nodes: []}", "6:3", ("cannot be used together",)),
    ("stages: ['${a.result.x}']", "5:12", ("may not be a reference",)),
    (STAGES + "{name: b, dependsOn: '${a.result.x}', spec: {taskType: echo}}", "7:28", ("may not be a reference",)),
    (STAGES + "{name: b, spec: '${a.result.x}'}", "7:23", ("may not be a reference",)),
    ("graph: {node: []}", "5:11", ('did you mean "nodes"?',)),
    (STAGES + "{name: a, spec: {taskType: echo}}", "7:14", ('"a" is used by two stages',)),
    (STAGES + "{name: 'b c', spec: {taskType: echo}}", "7:14", ("is no stage name",)),
    (STAGES + "{name: env, spec: {taskType: echo}}", "7:14", ("cannot be used as a stage's name",)),
    (STAGES + "{spec: {taskType: echo}}", "7:7", ('"name" is missing',)),
    (STAGES + "{name: b, spec: {}}", "7:7", ('"taskType" is missing',)),
    (STAGES + "{name: b, dependsOn: [c], spec: {taskType: echo}}", "7:29", ('names no stage of this file: "c"',)),
    (STAGES + "{name: b, spec: {taskType: echo, stages: []}}", "7:40", ("stages cannot hold stages",)),
    (STAGES + "{name: b, spec: {taskType: echo, data: {prompts: ['${c.result}']}}}", "7:57", ('unknown stage "c"', "the stages are a, b")),
    (STAGES + "{name: b, spec: {taskType: echo, data: {prompts: ['${b.result}']}}}", "7:57", ("refers to its own result",)),
    (STAGES + "{name: b, spec: {taskType: echo, timeout_sec: x}}", "7:53", ("spec.stages[1].spec.timeout_sec",)),
    ("stages:\n  - {name: a, dependsOn: [b], spec: {taskType: echo}}\n  - {name: b, spec: {taskType: echo}}", "6:7", ("a → b → a",)),
    ("inference: {top_p: 7}\nstages:\n  - {name: a, spec: {taskType: echo}}\n  - {name: b, spec: {taskType: echo}}", "5:22", ("is too large",)),
    ("taskType: echo\ndata: {type: graph_template, template: {columns: [{label: a}]}}", "6:53", ("either node and path, or expr",)),
    ("taskType: echo\ndata: {type: graph_template, template: {columns: [{expr: 'open(1)'}]}}", "6:60", ("is not allowed",)),
    ("taskType: echo\ndata: {type: graph_template, template: {columns: [{node: a, path: x}]}}", "6:53", ('unknown stage "a"',)),
    ("taskType: echo\ndata: {type: graph_template, template: {name: tabel, text: x}}", "6:49", ('did you mean "table"?',)),
]  # fmt: skip

NO_TASK: list[tuple[str, str, tuple[str, ...]]] = [
    ("", "", ("the file holds no task",)),
    ("# only a comment", "", ("the file holds no task",)),
    ("just text", "1:1", ("a document must be a mapping",)),
    ("- a\n- b", "1:1", ("a document must be a mapping", "a list of 2")),
    ("apiVersion: mloc/v1 kind: Task spec:", "1:25", ("lost its line breaks", "--data-binary")),
    ("kind: Task\nspec: {taskType: echo}", "1:1", ('"apiVersion" is missing', "mloc/v1")),
    ("apiVersion: mloc/v2\nspec: {taskType: echo}", "1:13", ('did you mean "mloc/v1"?',)),
    ("apiVersion: mloc/v1\nkind: Task", "1:1", ('"spec" is missing',)),
    ("apiVersion: mloc/v1\nspec: 5", "2:7", ("found 5",)),
    ("apiVersion: mloc/v1\nspec: {taskType: echo}\nmetadata: {nme: a}", "3:12", ('did you mean "name"?',)),
    ("apiVersion: mloc/v1\nspec: {taskType: echo}\nmetadata: {labels: {a: 1}}", "3:24", ('put quotes around it: "1"',)),
    ("apiVersion: mloc/v1\n\tspec: x", "2:1", ("broken YAML", "not tabs")),
    ("a: [1, 2", "2:1", ("broken YAML", "line 1")),
    ('a: "b', "1:6", ("broken YAML", "not closed")),
    ("a: b: c", "1:5", ("broken YAML", "quotes")),
    ("a: *b", "1:4", ("names no anchor",)),
    ("a: &a [*a]", "1:8", ("inside of its own anchor",)),
    ("? [a]\n: b", "1:3", ("a mapping key is not a text",)),
    ("apiVersion: !!python/object:os.system x\nspec: {taskType: echo}", "1:13", ("the tag", "not supported")),
    ("a: x\x01", "1:5", ("does not allow", "U+0001")),
    ("---\n" * 300, "257:1", ("too many documents",)),
    ("<<: 5", "1:5", ("<< merges mappings only",)),
]  # fmt: skip


def problems_of(text: str | bytes, source: str = "t.yaml") -> tuple[Problem, ...]:
    with pytest.raises(LanguageError) as caught:
        read_tasks(text, source)
    return caught.value.problems


@pytest.mark.parametrize(("spec", "place", "parts"), BROKEN)
def test_a_wrong_spec_is_refused_with_place_and_remedy(spec: str, place: str, parts: tuple[str, ...]) -> None:
    first = problems_of(task(spec))[0]
    for part in (f"t.yaml:{place}: ", *parts):
        assert part in str(first)


@pytest.mark.parametrize(("text", "place", "parts"), NO_TASK)
def test_what_is_no_task_file_is_refused_with_a_reason(text: str, place: str, parts: tuple[str, ...]) -> None:
    first = problems_of(text)[0]
    for part in (f"t.yaml:{place}", *parts):
        assert part in str(first)


def test_all_problems_of_all_documents_are_said_in_the_order_of_the_file() -> None:
    text = task("taskType: infernce\nslo: {priority: 500}\nretry: {max_attempts: x}") + "---\n" + task("taskType: echo\ntypo: 1")
    assert [(one.line, one.path) for one in problems_of(text)] == [
        (5, "spec.taskType"), (6, "spec.slo.priority"), (7, "spec.retry.max_attempts"), (14, "spec.typo"),
    ]  # fmt: skip


def test_what_all_stages_share_is_said_once() -> None:
    problems = problems_of(task("taskType: inference\nstages: [{name: a}, {name: b}, {name: c}]\ndata: {type: dataset}"))
    assert [problem.message for problem in problems] == ["names no dataset"]


def test_a_problem_has_its_line_and_the_column_in_it() -> None:
    (problem,) = problems_of(task("taskType: echo\nslo: {priority: 500}"))
    assert (problem.path, problem.line, problem.column) == ("spec.slo.priority", 6, 19)
    assert (problem.excerpt, problem.caret) == ("  slo: {priority: 500}", 19)
    assert (problem.message, problem.found, problem.accepted) == ("is too large", "500", "a whole number ≥ 0 and ≤ 100")


def test_a_long_line_is_cut_around_the_column() -> None:
    (problem,) = problems_of(task("taskType: echo\nslo: {deadline_sec: 5" + " " * 5_000 + ", priority: 500}"))
    assert len(problem.excerpt) < 200
    assert problem.excerpt[problem.caret - 1 :].startswith("500")


def test_problems_travel_as_json_and_between_processes() -> None:
    problems = problems_of(task("taskType: infernce"))
    assert msgspec.json.decode(msgspec.json.encode(problems), type=tuple[Problem, ...]) == problems
    assert pickle.loads(pickle.dumps(LanguageError(problems))).problems == problems


def test_text_that_is_no_utf8_is_refused() -> None:
    assert "not UTF-8" in problems_of(b"a: \xff")[0].message
    assert "surrogate" in problems_of("a: \ud800")[0].message


HUGE = {
    "brackets": "[" * 500_000,
    "dashes": "- " * 500_000,
    "braces": "{a: " * 250_000,
    "question marks": "? " * 500_000,
    "deep indentation": "".join(" " * depth + "a:\n" for depth in range(1_400)),
    "aliases": "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 12)}]\n" for i in range(20)),
    "merges": "a: &a {x: 1}\n" + "".join(f"b{i}: {{<<: [{', '.join(['*a'] * 20)}]}}\n" for i in range(500)),
    "many values": "- 1\n" * 262_000,
    "many keys": "".join(f"k{i}: 1\n" for i in range(90_000)),
    "many unknown keys in a spec": task("taskType: echo\n" + "".join(f"unknown{i}: 1\n" for i in range(50_000))),
    "many wrong labels": HEAD.replace("owner: ada", "labels: {" + ", ".join(f"l{i}: 1" for i in range(50_000)) + "}") + "  taskType: echo",
    "tag declarations": "".join(f"%TAG !a{i}! tag:a,1:\n" for i in range(40_000)) + "--- a",
    "many stages": task("taskType: echo\nstages:\n" + "".join(f"  - {{name: s{i}}}\n" for i in range(20_000))),
    "stages over large data": task(
        "taskType: inference\ndata: {prompts: ['" + "x" * 900_000 + "']}\nstages:\n" + "".join(f"  - {{name: s{i}}}\n" for i in range(250))
    ),
    "more than the limit": "a: " + "x" * (1 << 20),
    "a long scalar of dollars": task("taskType: echo\ndata: {path: '" + "${" * 400_000 + "${a}b}']}"),
    "a circle of many stages": task("taskType: echo\ngraph:\n  nodes:\n" + "".join(
        f"    - {{name: s{i}, dependsOn: [s{(i + 1) % 250}]}}\n" for i in range(250))),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_no_file_takes_long_or_breaks_the_reader(name: str) -> None:
    started = time.process_time()
    problems = problems_of(HUGE[name])
    assert 1 <= len(problems) <= 64
    assert len(msgspec.json.encode(problems)) < 100_000
    assert time.process_time() - started < 3  # a second on a quiet machine


def test_a_byte_that_is_not_utf8_is_found_behind_a_byte_order_mark_too() -> None:
    with pytest.raises(LanguageError) as raised:
        read_tasks(b"\xef\xbb\xbfapi\nb\xe7Version: mloc/v1\n", "f.yaml")
    problem = raised.value.problems[0]
    assert (problem.line, problem.column, problem.found) == (2, 2, "the byte 0xe7")
