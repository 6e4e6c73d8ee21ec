"""Literal secrets leave a spec before it is logged, and are never shown."""

from __future__ import annotations

import msgspec
import pytest
from task_files import VALID, task

from mloc.core.language.reading import read_tasks
from mloc.core.language.resolution import resolve_spec
from mloc.core.language.secrets import masked, move_secrets
from mloc.core.language.spec import TaskSpec, encode_spec

HTTP = "taskType: echo\noutput: {destination: {type: http, url: 'http://h/x', headers: %s}}"


def spec_of(spec: str) -> TaskSpec:
    return read_tasks(task(spec)).documents[0].tasks[0].spec


@pytest.mark.parametrize("spec", [
    HTTP % "{Authorization: Bearer s3cr3t}", HTTP % "{X-API-Key: s3cr3t}", HTTP % "{X-Custom: Bearer s3cr3t}", HTTP % "{Cookie: a=s3cr3t}",
    "taskType: echo\nmodel: {transformers: {token: s3cr3t}}", "taskType: echo\nmodel: {vllm: {hf_token: s3cr3t}}",
    "taskType: echo\ntraining: {hub_token: s3cr3t}", "taskType: echo\nretrieval: {qdrant: {api_key: s3cr3t}}",
    "taskType: echo\nnotify: 'https://me:s3cr3t@h/x'", "taskType: echo\nagent: {tools: [{mcp: {env: {DB_PASSWORD: s3cr3t}}}]}",
    "taskType: echo\nnotify: 'https://h/x?run=1&access_token=s3cr3t&b=2'", "taskType: echo\nnotify: https://hooks.slack.com/services/T0/B0/s3cr3t",
    "taskType: echo\nnotify: {url: 'https://h/x', secret: s3cr3t}",
    "taskType: echo\noutput: {destination: {type: http, url: 'https://bucket/x?X-Amz-Signature=s3cr3t'}}",
])  # fmt: skip
def test_a_literal_secret_is_moved_out_and_comes_back_when_it_is_resolved(spec: str) -> None:
    given = spec_of(spec)

    logged, secrets = move_secrets(given)

    assert b"s3cr3t" not in encode_spec(logged)
    assert len(secrets) == 1
    assert resolve_spec(logged, {}, {}, secrets) == given
    assert "s3cr3t" not in str(masked(given))
    assert "***" in str(masked(given))
    assert "***" in str(masked(logged))


@pytest.mark.parametrize("spec", [
    HTTP % "{Accept: text/html, X-Run: '5'}", HTTP % "{Authorization: 'Bearer ${env.TOKEN}'}", HTTP % "{Authorization: '${TOKEN}'}",
    "taskType: sft\ndata: {prompts: [a]}\ntraining: {eos_token: '<end>', pad_token: '<pad>', max_new_tokens: 5}",
    "taskType: echo\nnotify: 'https://h/token/key?run=nightly&token=${env.HOOK}'",
    "taskType: echo\ndata: {items: [{token: abc, password: x}]}", *VALID.values(),
])  # fmt: skip
def test_what_is_no_literal_secret_stays(spec: str) -> None:
    given = spec_of(spec)
    assert move_secrets(given) == (given, {})
    assert msgspec.json.encode(masked(given)) == encode_spec(given)
