"""The task types that the language knows. A plug-in may add more: those are checked by the workers that offer them."""

from __future__ import annotations

ADAPTER_TUNING = frozenset(("lora_sft", "qlora"))
TRAINING = frozenset(("sft", "dpo", "kto", "ppo", "grpo", "rloo", "reward")) | ADAPTER_TUNING
ROWS = frozenset(("inference", "embed", "score", "rerank"))
KNOWN = frozenset(("echo", "rag", "agent", "eval")) | TRAINING | ROWS

NEED_ROWS = (TRAINING | ROWS) - {"rerank"}
"""Types that have nothing to do without rows."""
