"""A tiny model that calls tools: its chat template, and the conversations that it is trained on until it repeats them word for word."""

from __future__ import annotations

import json
from typing import Any

# Calls as Hermes and Qwen write them. What tools there are is left out of the prompt, which keeps it short for a tiny model.
TEMPLATE = (
    "{% if tools %}{% endif %}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
    '{% for c in m.tool_calls or [] %}<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SCRATCH = {
    "type": "scratch", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 512,
    "chat_template": TEMPLATE,
}  # fmt: skip
LEARN = {"max_steps": 150, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "lr_scheduler_type": "constant", "seed": 1}


def transcript(question: str, *turns: tuple[str, dict[str, Any], str], answer: str) -> dict[str, Any]:
    """`turns`: tool, its arguments, what it gives."""
    messages = [{"role": "user", "content": question}]
    for tool, arguments, seen in turns:
        call = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
        messages += [{"role": "assistant", "content": f"<tool_call>{call}</tool_call>"}, {"role": "tool", "content": seen}]
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}
