"""Task files that are right, shared by the tests that read them and those that damage them."""

from __future__ import annotations

HEAD = "apiVersion: mloc/v1\nkind: Task\nmetadata: {name: t, owner: ada}\nspec:\n"


def task(spec: str) -> str:
    """A file with one document, whose spec is given indented by two."""
    return HEAD + "".join(f"  {line}\n" for line in spec.strip("\n").splitlines())


VALID: dict[str, str] = {
    "an echo with nothing else": "taskType: echo",
    "prompts": "taskType: inference\ndata: {prompts: [one, two]}",
    "a list of items": "taskType: inference\ndata:\n  type: list\n  items:\n    - one\n    - {prompt: two, metadata: {answer: 2}}",
    "prompts below inference": "taskType: inference\ninference: {prompts: [one], max_new_tokens: 8, chat: on, stop: END}",
    "sampling by name": (
        "taskType: inference\ndata: {prompts: [a]}\n"
        "inference: {n: 2, logprobs: 3, top_k: -1, seed: 1, stop: [a, b], logit_bias: {'5': 1.5}}"
    ),
    "structured output": "taskType: inference\ndata: {prompts: [a]}\ninference: {json_schema: {type: object}}",
    "quantities": "taskType: echo\nresources: {hardware: {cpu: 500m, memory: 32GiB, gpu: {type: A100, count: '2', memory: 16Gi}}, tags: fast}",
    "numbers as text and without a dot": "taskType: sft\ndata: {jsonl_path: a.jsonl}\ntraining: {learning_rate: 1e-4, max_steps: '60', packing: yes}",
    "older trainer names": (
        "taskType: sft\ndata: {jsonl: {path: a.jsonl}}\n"
        "hyperparameters: {batch_size: 2, steps: 5, save_freq: 10, max_seq_length: 64}"
    ),
    "a dataset": (
        "taskType: dpo\n"
        "data: {type: dataset, dataset_name: org/set, config_name: en, split: 'train[:1%]', chosen_column: c, rejected_column: r}"
    ),
    "preferences": "taskType: dpo\ndata: {preferences: [{prompt: a, chosen: b, rejected: c}]}",
    "chat turns": "taskType: inference\ndata: {messages: [{role: user, content: hi}]}",
    "images": "taskType: inference\ndata: {items: [{messages: [{role: user, content: [{type: image_url, image_url: {url: a.png}}]}]}]}",
    "a model from scratch": (
        "taskType: sft\ndata: {prompts: [a]}\n"
        "model: {source: {type: scratch, hidden_size: 64, num_layers: 2, tokenizer_text: [a b]}}"
    ),
    "a hub model": (
        "taskType: inference\ndata: {prompts: [a]}\n"
        "model: {source: {identifier: org/m}, vllm: {max_model_len: 64}, transformers: {dtype: float32}}"
    ),
    "an adapter beside the model": (
        "taskType: sft\ndata: {prompts: [a]}\n"
        "lora: {type: qlora, rank: 4, alpha: 8, dropout: 0.1, target_modules: all-linear}"
    ),
    "served adapters": "taskType: inference\ndata: {prompts: [a]}\nmodel: {adapters: [{name: x, path: /a, apply: merge}, {url: 'http://a/b'}]}",
    "rewards": "taskType: grpo\ndata: {prompts: [a]}\nrewards: [{type: regex, regex: '^a', weight: 0.5}, {type: length, max_length: 9}]",
    "a reward model of older form": "taskType: ppo\ndata: {prompts: [a]}\nhyperparameters: {reward_model: org/r, ppo_epochs: 2, target_kl: 0.1}",
    "an evaluation with a gate": "taskType: eval\neval: {harness: lm-eval, tasks: arc, limit: 10, gate: {metric: acc, min: 0.3}}",
    "shards": "taskType: inference\ndata: {prompts: [a]}\nparallel: {enabled: true, shards: auto, max_shards: 4}",
    "output and artifacts": (
        "taskType: echo\n"
        "output: {destination: {type: http, url: 'http://h/x', headers: {A: b}, timeoutSec: 5}, artifacts: [final_model]}"
    ),
    "times and retries": (
        "taskType: echo\nsloSeconds: 30\nslo: {priority: 90}\nretry: {max_attempts: 1}\ntimeout_sec: 60\nttl_sec: 3600\n"
        "dependsOn: other"
    ),
    "a webhook": "taskType: echo\nnotify: http://h/done",
    "retrieval of older form": (
        "taskType: rag_inference\nhyperparameters: {embedding_model: e, vector_db: qdrant, retrieval_k: 3}\n"
        "retrieval: {documents: [a, b]}"
    ),
    "an agent of older form": (
        "taskType: agent_inference\ntask: sum up\nconfigName: small\n"
        "hyperparameters: {agent_type: react, tools: [python_repl]}"
    ),
    "an export": (
        "taskType: inference\ndata: {prompts: [a]}\n"
        "postprocess: {jsonl_export: {path: x.jsonl, fields: {p: {from: prompt}, o: {from: output}}}}"
    ),
    "a start from a checkpoint": (
        "taskType: sft\ndata: {prompts: [a]}\n"
        "checkpoint: {load: {type: http, url: '${env.WEIGHTS}', headers: {A: '${TOKEN}'}}}"
    ),
    "nothing after a key": "taskType: echo\nslo:\ninference:\nmodel: {source: }",
    "anchors and merges": "taskType: echo\nmodel:\n  vllm: &v {seed: 1}\n  transformers: {<<: {use_cache: true}, variant: v1}\ngeneration: *v",
    "stages in a chain": """
stages:
  - {name: a, spec: {taskType: echo, data: {prompts: [x]}}}
  - {id: b, spec: {taskType: echo, data: {prompts: ['say ${a.result.items[0].output}']}}}
""",
    "a graph": """
taskType: echo
graph:
  nodes:
    - {name: c, dependsOn: [a, b]}
    - {name: a}
    - {name: b, spec: {data: {items: '${a.result.items}'}}}
""",
    "a model of an earlier stage": """
stages:
  - {name: train, spec: {taskType: sft, data: {prompts: [x]}, model: {source: {type: scratch}}}}
  - {name: use, spec: {taskType: inference, data: {prompts: [x]}, model: {source: {type: stage, identifier: train}}}}
""",
    "a template over stages": """
stages:
  - {name: a-b, spec: {taskType: echo, data: {prompts: [x]}}}
  - name: sum
    dependsOn: []
    spec:
      taskType: inference
      data: {type: graph_template, template: {columns: [{label: L, expr: "len(a_b.items)"}, {label: M, node: a-b, path: "items[*].output"}]}}
""",
    "a reference in the place of a number": """
stages:
  - {name: a, spec: {taskType: echo}}
  - {name: b, spec: {taskType: inference, data: {prompts: [x]}, inference: {max_tokens: '${a.result.n}'}, training: {seed: '${a.result.s}'}}}
""",
}
