"""From a file's plans to the events of its submission."""

import itertools
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.cluster import Cluster
from mloc.core.events import AttemptStarted, AttemptSucceeded, ResultPublished, TaskCancelled, TaskDispatched, TaskSubmitted, WorkerRegistered
from mloc.core.explain import explain
from mloc.core.fold import evolve
from mloc.core.language.errors import LanguageError
from mloc.core.language.reading import read_tasks
from mloc.core.worker import Worker
from mloc.services.intake.known_tasks import KnownTasks
from mloc.services.intake.submission import ModelDefaults, Submission, submission_of, unoffered_types
from mloc.services.intake.task_ids import TaskIds, slug

NO_DEFAULTS = ModelDefaults()
HEAD = "apiVersion: mloc/v1\nkind: EchoTask\nmetadata: {name: hello, owner: ada, project: p, labels: {team: x}}\nspec:\n"
ECHO = HEAD + "  taskType: echo\n  data: {prompts: [a, b]}\n"
PIPELINE = """apiVersion: mloc/v1
kind: Chain
metadata: {name: chain}
spec:
  taskType: echo
  dependsOn: [earlier]
  data: {prompts: [a]}
  stages:
  - name: one
  - name: two
  - {name: three, dependsOn: []}
"""


def submit(text: str, cluster: Cluster | None = None, results: Path = Path("/nowhere"), defaults=NO_DEFAULTS, key: str = "") -> Submission:
    numbers = itertools.count(1)
    return submission_of(
        read_tasks(text).documents, new_id=lambda name: f"{slug(name)}-{next(numbers)}", known=KnownTasks(cluster or Cluster(), results),
        defaults=defaults, key=key, body_sha256="digest" if key else "",
    )  # fmt: skip


def cluster_with(*events) -> Cluster:
    cluster = Cluster()
    for number, event in enumerate(events, 1):
        evolve(cluster, f"{number}-0", event)
    return cluster


def finished(event: TaskSubmitted):
    """The events of a task from its submission to its published result, on one worker."""
    names = {"task": event.task, "attempt": 1, "worker": "w", "incarnation": 1}
    yield WorkerRegistered(worker="w", incarnation=1, task_types=("echo",))
    yield event
    yield TaskDispatched(**names)
    yield AttemptStarted(**names)
    yield AttemptSucceeded(**names, result=msgspec.Raw(b'{"ok": true}'))
    yield ResultPublished(task=event.task, attempt=1)


def test_a_task_becomes_one_event_with_all_that_its_file_says():
    (event,) = submit(ECHO + "  slo: {priority: 70}\n  retry: {max_attempts: 2, backoff_sec: 1}\n  timeout_sec: 9\n").events
    assert (event.task, event.name, event.kind, event.task_type) == ("hello-1", "hello", "EchoTask", "echo")
    assert (event.owner, event.project, event.labels, event.priority) == ("ada", "p", {"team": "x"}, 70)
    assert (event.max_attempts, event.backoff_sec, event.timeout_sec, event.items) == (2, 1.0, 9.0, 2)
    assert event.need is not None
    assert event.need.light
    assert len(event.spec_digest) == 64


def test_a_pipeline_comes_parent_first_and_its_first_stages_wait_for_what_it_depends_on():
    earlier = submit(ECHO.replace("hello", "earlier")).events[0]
    parent, one, three, two = submit(PIPELINE, cluster_with(earlier)).events
    assert parent.children == (one.task, three.task, two.task) == ("chain-1.one", "chain-1.three", "chain-1.two")
    assert (parent.task_type, parent.need, parent.depends_on) == ("", None, ())
    assert one.depends_on == three.depends_on == (earlier.task,)
    assert two.depends_on == (one.task,)
    assert (two.parent, two.stage) == (parent.task, "two")


def test_a_dependency_whose_result_is_published_is_met_at_once():
    earlier = submit(ECHO.replace("hello", "earlier")).events[0]
    event = submit(ECHO + f"  dependsOn: [{earlier.task}]\n", cluster_with(*finished(earlier))).events[0]
    assert event.depends_on == (earlier.task,)
    assert event.met == {earlier.task: "5-0"}


def test_a_dependency_that_left_memory_is_known_by_its_result_on_disk(tmp_path):
    (tmp_path / "gone-1").mkdir()
    (tmp_path / "gone-1" / "responses.json").write_text("{}")
    assert submit(ECHO + "  dependsOn: [gone-1]\n", results=tmp_path).events[0].met == {"gone-1": ""}


def test_a_later_document_may_wait_for_an_earlier_one_of_its_file():
    first, second = submit(ECHO + "---\n" + ECHO.replace("hello", "second") + "  dependsOn: [hello]\n").events
    assert second.depends_on == (first.task,)


@pytest.mark.parametrize("name", ["helo", "../../etc", "x/y"])
def test_an_unknown_dependency_is_refused(name):
    known = submit(ECHO).events[0]
    with pytest.raises(LanguageError, match="there is no task with the id or name") as caught:
        submit(ECHO + f"  dependsOn: ['{name}']\n", cluster_with(known))
    assert caught.value.problems[0].path == "spec.dependsOn"
    if name == "helo":
        assert 'did you mean "hello"?' in str(caught.value)


def test_nothing_can_wait_for_a_cancelled_task():
    known = submit(ECHO).events[0]
    with pytest.raises(LanguageError, match="was cancelled"):
        submit(ECHO + "  dependsOn: [hello]\n", cluster_with(known, TaskCancelled(task=known.task)))


def test_a_task_without_a_model_gets_the_default_or_is_refused():
    text = HEAD + "  taskType: inference\n  data: {prompts: [a]}\n"
    spec = msgspec.json.decode(submit(text, defaults=ModelDefaults(inference="tiny")).events[0].spec)
    assert spec["model"]["source"] == {"type": "huggingface", "identifier": "tiny"}
    with pytest.raises(LanguageError, match="VLLM_MODEL"):
        submit(text)
    with pytest.raises(LanguageError, match="PPO_MODEL"):
        submit(text.replace("inference", "sft"))


def test_literal_secrets_do_not_reach_the_events():
    text = ECHO + "  output: {destination: {type: http, url: 'http://x', headers: {Authorization: Bearer abcdef}}}\n"
    submission = submit(text)
    assert b"abcdef" not in msgspec.json.encode(submission.events)
    assert b"${secret." in bytes(submission.events[0].spec)
    assert list(submission.secrets["hello-1"].values()) == ["Bearer abcdef"]
    assert submission.events[0].has_secrets
    (receiver,) = submission.events[0].receivers
    assert (receiver.what, receiver.url) == ("result", "http://x")
    assert receiver.headers["Authorization"].startswith("${secret.")


def test_a_pipelines_stages_send_their_results_and_the_pipeline_tells_its_own_end():
    shared = "  notify: {url: 'https://h/done', headers: {X-Token: abcdef}}\n  output: {destination: {type: http, url: 'http://x'}}\n"
    submission = submit(PIPELINE.replace("  dependsOn: [earlier]\n", "") + shared)
    parent, *stages = submission.events
    assert [receiver.what for receiver in parent.receivers] == ["notice"]
    assert {receiver.what for stage in stages for receiver in stage.receivers} == {"result"}
    assert b"abcdef" not in msgspec.json.encode(submission.events)
    assert (parent.has_secrets, list(submission.secrets)) == (True, [parent.task])


def test_the_idempotency_key_is_in_the_events_themselves():
    assert all((event.idempotency_key, event.body_sha256) == ("k", "digest") for event in submit(ECHO + "---\n" + ECHO, key="k").events)


def test_types_that_no_worker_takes_are_warned_about():
    events = submit(ECHO).events
    taking = Worker("w", 1, task_types=frozenset({"echo"}))
    warned = ["no living worker takes tasks of type echo; they wait until one does"]
    assert unoffered_types(events, ()) == unoffered_types(events, [replace(taking, phase="lost")]) == warned
    assert unoffered_types(events, [taking]) == []


def test_parts_of_a_type_that_no_worker_takes_are_warned_about():
    judged = "apiVersion: mloc/v1\nspec:\n  taskType: eval\n  model: {source: {identifier: m}}\n  eval: {harness: lm-eval, tasks: [arc_easy]}\n"
    events = submit(judged).events
    without = Worker("a", 1, task_types=frozenset({"eval"}), lacks={"eval/lm-eval": "it needs lm_eval"})
    assert unoffered_types(events, [without]) == ["no living worker takes tasks of type eval with lm-eval; they wait until one does"]
    assert unoffered_types(events, [without, replace(without, id="b", lacks={})]) == []


def test_a_training_that_reports_to_what_no_worker_has_waits_with_a_warning_and_the_command_in_explain():
    told = "apiVersion: mloc/v1\nspec:\n  taskType: sft\n  model: {source: {identifier: m}}\n  training: {report_to: wandb}\n  data: {prompts: [a]}\n"
    (event,) = submit(told).events
    words = 'training.report_to wandb needs wandb: pip install "mloc[trackers]"'
    without = WorkerRegistered(worker="a", incarnation=1, task_types=("sft",), lacks={"sft/wandb": words})
    cluster, another = Cluster(), Cluster()
    for at, happened in enumerate((without, event)):
        evolve(cluster, f"{at}-1", happened)
    assert unoffered_types([event], cluster.workers.values()) == ["no living worker takes tasks of type sft with wandb; they wait until one does"]
    assert explain(cluster, cluster.tasks[event.task]).summary == f"none of 1 worker offers task type sft with wandb (a: {words})"
    for at, happened in enumerate((without, replace(without, worker="b", lacks={}), event)):
        evolve(another, f"{at}-1", happened)
    assert explain(another, another.tasks[event.task]).worker == "b"


def test_all_that_is_wrong_in_a_file_is_said_at_once():
    with pytest.raises(LanguageError) as caught:
        submit(ECHO + "  dependsOn: [a1]\n---\n" + ECHO + "  dependsOn: [b1]\n")
    assert len(caught.value.problems) == 2


@given(st.text(max_size=60), st.lists(st.floats(1.8e9, 1.9e9), min_size=1, max_size=20))
def test_ids_never_repeat_and_speak_whatever_the_clock_does(name, times):
    clock = itertools.cycle(times)
    ids = TaskIds(lambda: next(clock), lambda below: below - 2)
    made = [ids.new(name) for _ in range(50)]
    assert len(set(made)) == 50
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id) and len(id) <= 40 for id in made)


def test_ids_of_later_seconds_sort_later():
    now = iter([1.8e9, 1.8e9 + 1, 1.8e9 + 100_000])
    ids = TaskIds(lambda: next(now), lambda _: 0)
    made = [ids.new("a") for _ in range(3)]
    assert made == sorted(made)
