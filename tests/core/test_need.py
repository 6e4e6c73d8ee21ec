"""What placement must find, read off the spec."""

import pytest

from mloc.core.events import Need, Parallel
from mloc.core.language.reading import read_tasks
from mloc.core.language.spec import TaskSpec
from mloc.core.needs.need import inline_items, model_of, need_of, parallel_of


def spec(body: str) -> TaskSpec:
    """The spec of a task written in YAML."""
    return read_tasks(f"apiVersion: mloc/v1\nspec:\n{body}").documents[0].tasks[0].spec


ECHO = "  taskType: echo\n  data: {prompts: [a, b, c]}\n"
INFER = "  taskType: inference\n  model: {source: {identifier: m}}\n  data: {prompts: [a, b, c]}\n"


def test_an_echo_is_light_unless_it_sleeps_or_crashes():
    assert need_of(spec(ECHO)).light
    assert not need_of(spec(ECHO + "  echo: {sleep_sec: 1}")).light
    assert not need_of(spec(ECHO + "  echo: {crash: true}")).light
    assert not need_of(spec(INFER)).light


def test_an_echo_whose_result_would_not_fit_into_an_event_is_done_as_rows_in_a_host():
    assert need_of(spec(f"  taskType: echo\n  data: [{', '.join(['word'] * 300)}]\n")).light
    assert not need_of(spec(f"  taskType: echo\n  data: [{', '.join(['word'] * 3000)}]\n")).light
    assert not need_of(spec(f"  taskType: echo\n  data: ['{'w' * 40_000}']\n")).light
    assert not need_of(spec(f"  taskType: echo\n  data: {{messages: [{{role: user, content: '{'w' * 40_000}'}}]}}\n")).light


def test_hardware_and_tags_are_read_with_their_units():
    need = need_of(spec(INFER + "  resources: {tags: [b, a, a], hardware: {cpu: 500m, memory: 2GiB, gpu: {type: H200, count: 2, memory: 8Gi}}}"))
    assert need == Need("inference", gpus=2, gpu_type="H200", gpu_memory=8 << 30, cpu=0.5, memory=2 << 30, tags=("a", "b"))


def test_enforce_cpu_asks_for_no_device():
    need = need_of(spec(INFER + "  enforce_cpu: true\n  resources: {hardware: {gpu: {type: H200, count: 2}}}"))
    assert (need.gpus, need.gpu_type) == (0, "any")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", Parallel()),
        ("{shards: 4, max_shards: 8, min_items_per_shard: 2}", Parallel(4, 8, 2)),
        ("{shards: auto}", Parallel()),
        ("{shards: 200}", Parallel(200, 200, 1)),
        ("{enabled: false, shards: 4}", None),
    ],
)
def test_parallel_says_how_a_task_may_be_split(written, expected):
    assert parallel_of(spec(INFER + f"  parallel: {written}")) == expected


@pytest.mark.parametrize(
    ("data", "items"),
    [
        ("{prompts: [a, b, c]}", 3),
        ("{jsonl: {path: a.jsonl}}", 0),
        ("{messages: [{role: user, content: hi}, {role: user, content: ho}]}", 1),
        ("{messages: [[{role: user, content: hi}], [{role: user, content: ho}]]}", 2),
        ("{preferences: [{prompt: a, chosen: b, rejected: c}]}", 1),
    ],
)
def test_rows_in_the_file_are_counted(data, items):
    assert inline_items(spec(f"  taskType: echo\n  data: {data}")) == items


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("{source: {type: huggingface, identifier: org/tiny}}", "org/tiny"),
        ("{source: {type: http, identifier: 'https://ada:secret@host/m.tar?token=secret'}}", "https://host/m.tar"),
        ("{source: {type: local, identifier: /models/m}}", "/models/m"),
        ("{source: {type: scratch}}", "scratch"),
        ("{source: {type: stage, path: /a}}", "stage"),
    ],
)
def test_a_model_has_a_name_without_what_is_secret(model, name):
    assert model_of(spec(f"  taskType: inference\n  model: {model}\n  data: {{prompts: [a]}}\n")) == name


def test_a_task_without_a_model_has_no_name_of_one():
    assert model_of(spec(ECHO)) == ""


EVAL = "  taskType: eval\n  model: {source: {identifier: m}}\n  data: {items: [{prompt: a, response: b}]}\n  parallel: {shards: 2}\n"
RAG = "  taskType: rag\n  model: {source: {identifier: m}}\n  parallel: {shards: 2}\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (EVAL, ""),
        (EVAL + "  eval: {harness: judge, judge: {identifier: j}}\n", ""),
        (EVAL + "  eval: {gate: {metric: accuracy, min: 0.5}}\n", "eval.gate is held against all rows together"),
        (EVAL + "  eval: {harness: lm-eval, tasks: [arc_easy]}\n", "lm-eval are no rows"),
        (RAG + "  data: {prompts: [a, b]}\n  retrieval: {documents: [d], embedding: {model: e}}\n", ""),
        (RAG + "  data: {prompts: [a, b]}\n  retrieval: {documents: [d], embedding: {model: e}, path: kept}\n", "takes one task at a time"),
        (RAG + "  data: {prompts: [a, b]}\n  retrieval: {embedding: {model: e}, path: kept}\n", ""),
        (RAG + "  retrieval: {documents: [d], embedding: {model: e}}\n", "only makes an index"),
        (INFER.replace("inference", "sft") + "  parallel: {shards: 2}\n", "a training learns from all rows together"),
    ],
)
def test_what_cannot_be_split_by_rows_runs_as_one_and_that_is_said(body: str, said: str) -> None:
    read = read_tasks(f"apiVersion: mloc/v1\nspec:\n{body}")
    warned = [str(problem) for problem in read.warnings if "runs as one" in str(problem)]
    assert (parallel_of(read.documents[0].tasks[0].spec) is None) == bool(said) == bool(warned)
    assert all("spec.parallel: has no effect" in text and said in text for text in warned)


AGENT = "  taskType: agent\n  model: {source: {identifier: m}}\n  agent: {task: do it, tools: %s}\n"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (EVAL, ()),
        (EVAL + "  eval: {harness: lm-eval, tasks: [arc_easy]}\n", ("lm-eval",)),
        (AGENT % "[python_repl, {web_search: {}}]", ()),
        (AGENT % "[retrieval, {command: server}]", ("mcp", "retrieval")),
        (AGENT % "mcp", ("mcp",)),
        (INFER, ()),
    ],
)
def test_what_a_task_uses_that_is_installed_apart_is_needed(body: str, parts: tuple[str, ...]) -> None:
    assert need_of(spec(body)).parts == parts


TRAIN = "  taskType: %s\n  model: {source: {identifier: m}%s}\n  training: {%s}\n  data: {items: [{prompt: a, response: b}]}\n"
ON_GPU = "  resources: {hardware: {gpu: {count: 1}}}\n"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (TRAIN % ("sft", "", "report_to: [wandb, none, tensorboard]"), ("tensorboard", "wandb")),
        (TRAIN % ("sft", "", "log_with: mlflow"), ("mlflow",)),
        (TRAIN % ("sft", "", "report_to: all"), ()),
        (TRAIN % ("sft", "", "report_to: true"), ()),  # which the trainer refuses
        (TRAIN % ("sft", "", "report_to: 5"), ()),
        (TRAIN % ("sft", "", "zero_stage: 2"), ("deepspeed",)),
        (TRAIN % ("sft", "", "auto_deepspeed: true, report_to: none"), ("deepspeed",)),
        (TRAIN % ("sft", "", "fsdp: full_shard"), ()),
        (TRAIN % ("kto", ", adapter: {type: qlora}", ""), ("bitsandbytes",)),
        (TRAIN % ("kto", ", adapter: {type: lora}", ""), ()),
        (TRAIN % ("lora_sft", ", config: {load_in_4bit: true}", ""), ("bitsandbytes",)),
        (TRAIN % ("qlora", ", adapter: {type: qlora}", ""), ()),  # the type itself requires it
        (INFER.replace("m}}", "m}, config: {load_in_4bit: true}}"), ("bitsandbytes",)),
        (INFER.replace("m}}", "m}, config: {load_in_8bit: true}}") + ON_GPU, ()),  # vLLM's own
        (INFER.replace("m}}", "m}, transformers: {quantization_config: {load_in_4bit: true}}}"), ("bitsandbytes",)),
        (INFER + "  inference: {engine: vllm}\n", ("vllm",)),
        (INFER + "  inference: {engine: vllm}\n" + ON_GPU, ("vllm-cuda",)),
        (INFER + "  inference: {engine: transformers}\n" + ON_GPU, ()),
        (INFER + "  inference: {engine: auto}\n" + ON_GPU, ()),  # transformers where vLLM is missing
        (INFER.replace("m}}", "m}, vllm: {max_model_len: 64}}"), ()),
        (EVAL + "  eval: {harness: lm-eval, tasks: [arc_easy]}\n  inference: {engine: vllm}\n", ("lm-eval", "vllm")),
        (RAG + "  data: {prompts: [a]}\n  retrieval: {documents: [d], embedding: {model: e}}\n  inference: {engine: vllm}\n", ("vllm",)),
        (
            RAG + "  data: {prompts: [a]}\n  retrieval: {documents: [d], embedding: {model: e}, returns: passages}\n  inference: {engine: vllm}\n",
            (),
        ),
    ],
)
def test_trackers_deepspeed_quantized_weights_and_an_engine_by_name_are_needed(body: str, parts: tuple[str, ...]) -> None:
    assert need_of(spec(body)).parts == parts
