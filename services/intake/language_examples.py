"""The part of docs/task-language.md that is written by hand: examples first, then what holds everywhere. A test submits each example."""

INTRO = """# The task language

A task file says in YAML what is to be done; `mloc-intake submit FILE` submits it, whole or not at all. A wrong file is refused with the line
and column of everything that is wrong, what was found and what is accepted. `mloc-intake validate FILE` checks without submitting.

<!-- The examples and rules are in services/intake/language_examples.py, the tables in the Structs of core/language: `make docs`. -->

## Examples
"""

EXAMPLES = {
    "Ask a model": """\
# yaml-language-server: $schema=task.schema.json
apiVersion: mloc/v1
kind: InferenceTask
metadata: {name: capitals, owner: ada}
spec:
  taskType: inference
  model:
    source: {type: huggingface, identifier: Qwen/Qwen2.5-0.5B-Instruct}
  data:
    prompts:
      - What is the capital of France?
      - What is the capital of Peru?
  inference: {max_tokens: 32, temperature: 0}
""",
    "Teach it, on rows of a file": """\
apiVersion: mloc/v1
kind: LoRASFTTask
metadata: {name: brief-answers}
spec:
  taskType: lora_sft
  resources:
    hardware: {cpu: 4, memory: 16Gi, gpu: {count: 1, memory: 20Gi}}
  model:
    source: {type: huggingface, identifier: Qwen/Qwen2.5-0.5B-Instruct}
    adapter: {r: 16, lora_alpha: 32}
  data:
    jsonl: {path: answers.jsonl, prompt_field: question, response_field: answer}
  training: {num_train_epochs: 3, per_device_train_batch_size: 8, learning_rate: 1e-4, save_steps: 100}
  retry: {max_attempts: 2}
  timeout_sec: 7200
""",
    "Both, one after the other, on two workers": """\
apiVersion: mloc/v1
kind: Pipeline
metadata: {name: teach-and-ask, labels: {team: research}}
spec:
  inference: {max_tokens: 32}             # what stands here holds for every stage
  stages:
    - name: teach
      spec:
        taskType: lora_sft
        model:
          source: {type: huggingface, identifier: Qwen/Qwen2.5-0.5B-Instruct}
          adapter: {r: 16}
        data: {jsonl: {path: answers.jsonl}}
        training: {max_steps: 200}
    - name: ask
      spec:
        taskType: inference
        model: {source: {type: stage, identifier: teach}}
        data: {jsonl: {path: questions.jsonl}}
        parallel: {shards: 2}
    - name: report
      dependsOn: [teach, ask]
      spec:
        taskType: echo
        data:
          items: ["loss ${teach.result.training.final_loss}, ${ask.result.usage.num_requests} answers"]
""",
}

RULES = """## In an editor

`mloc-intake schema --output task.schema.json` writes the language as JSON Schema. With the YAML extension of VS Code (or any editor that
uses yaml-language-server) this first line of a task file gives completion and marks what is wrong while you type:

```yaml
# yaml-language-server: $schema=task.schema.json
```

The same file is in [task.schema.json](task.schema.json). Some things only MLOC sees: whether a stage that is named exists, whether sizes divide,
whether a merged stage has all that it needs.

## What holds everywhere

- A file may hold several documents, parted by `---`; at most 256 tasks and 1 MiB. JSON is read as well.
- `apiVersion`, `kind` and `metadata` are as in Kubernetes; `spec.taskType` says what is done. This version comes with executors for
  `echo`, `inference`, `embed`, `score`, `rerank`, `rag`, `sft`, `lora_sft`, `qlora`, `dpo`, `kto`, `reward`, `grpo`, `rloo`, `ppo`,
  `agent` and `eval`. Other known types, and types of plug-ins, are accepted, checked, and wait until a worker offers them. `mloc doctor`
  says what runs where.
- Keys that are not known are errors, except in the [settings of libraries](#settings-that-are-handed-to-libraries-by-name). *No effect yet* means:
  read, checked and kept, but nothing follows from it in this version.
- YAML 1.2: `yes`, `on`, `007` and `12:30` are texts. Where a switch is expected `yes`, `no`, `on` and `off` are taken, where a number is
  expected a text that is one (`"8"`, `1e-4`, `5_000`), where a list is expected a single text. Nothing after a key means its default.
- **References.** `${stage.result.path[0].to.value}` stands for what an earlier stage gave, in a text or in place of any value;
  `${stage.task_id}` and `${stage.folder}` for its id and folder. A stage that refers to another waits for it. `${env.NAME}` or `${NAME}` is a
  variable of the worker, if its `WORKER_ENV_ALLOW` names it; in prompts and rows it stays as it is written. `$${…}` writes `${…}`. What placement
  needs (`taskType`, `resources`, `parallel`, `slo`, `retry`, `timeout_sec`, `dependsOn`, …) can be no reference.
- Literal secrets in headers and settings are moved out of the log when the file is submitted, and shown as `***`. They lie beside it, on the
  server's disk too, until the task has ended.
- A path is relative to the folder of the task file.
"""
