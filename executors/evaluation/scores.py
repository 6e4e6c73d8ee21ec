"""How an answer is held against what was to be said, and how the scores of all rows become one number. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mloc.core.measured import measured

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def score_answer(output: str, references: Iterable[str], pattern: str | None = None) -> dict[str, float]:
    """`accuracy`: the same text; `contains`: the reference stands in the answer; `f1`: shared words; of several references the best counts.

    With a `pattern` what is compared is its first group (or all that it matches), the last time it stands in the answer; `matched`: it does.
    """
    scores: dict[str, float] = {}
    if pattern is not None:
        found = list(re.finditer(pattern, output))
        scores["matched"] = float(bool(found))
        output = (found[-1][1] if found[-1].re.groups else found[-1][0]) or "" if found else ""
    said = normalized(output)
    wanted = [normalized(reference) for reference in references]
    if wanted:
        scores["accuracy"] = float(said in wanted)
        scores["contains"] = max(float(bool(one) and one in said) for one in wanted)
        scores["f1"] = max(_f1(said.split(), one.split()) for one in wanted)
    return scores


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and further blanks, as the scores of SQuAD have it (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def summed_up(scores: Iterable[Mapping[str, float]], rows: int, *, is_part: bool = False) -> dict[str, dict[str, Any]]:
    """Metric → {value, stderr, n}: the mean over all rows, a row without the score counting as 0, and the standard error of the mean.

    `is_part`: others will put them together with those of the other rows, and need every digit."""
    by_metric: dict[str, list[float]] = {}
    for one in scores:
        for name, value in one.items():
            by_metric.setdefault(name, []).append(value)
    found = {name: measured(values, rows) for name, values in by_metric.items()}
    return {name: msgspec.structs.asdict(one if is_part else one.rounded()) for name, one in found.items()}


def _f1(said: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not said or not wanted:
        return float(said == wanted)
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0
