"""Rows that a training cannot learn from are told in one way, whichever training it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task

from mloc.core.host_frames import Failed, Telemetry
from mloc.executors.contract import ExecutorError
from mloc.executors.rows.data_loading import examples
from mloc.executors.rows.rows import Row
from mloc.executors.training.group_executor import _prompts
from mloc.executors.training.preferences import equal_pairs, labelled_examples, preference_examples


@pytest.mark.parametrize(
    ("learn_from", "needed"),
    [
        (examples, "a text, messages, or a prompt with a response"), (preference_examples, "chosen and rejected"),
        (labelled_examples, "a prompt, a response and a label"), (_prompts, "a prompt"),
    ],
)  # fmt: skip
def test_other_columns_than_are_needed_are_told_with_those_that_there_are(learn_from: Callable[..., Any], needed: str) -> None:
    with pytest.raises(ExecutorError, match=rf"^row 3 needs {needed}.*; it has bar, foo$") as raised:
        learn_from([Row(3, columns={"foo": 1, "bar": 2})])
    assert raised.value.type == "WrongColumns"
    assert not raised.value.retryable


def test_pairs_of_the_same_answer_are_counted_for_the_person_who_made_them() -> None:
    told = Row(0, prompt="Say one.", chosen="one", rejected="one"), Row(1, prompt="Say two.", chosen="two", rejected="three")
    assert equal_pairs(preference_examples(told)) == ["1 of 2 pairs have the same answer as chosen and as rejected: nothing is learned from them"]
    assert equal_pairs(preference_examples(told[1:])) == []


@pytest.mark.models
def test_a_preference_training_says_so_before_it_loads_a_model(warm_host: DrivenHost, tmp_path: Path) -> None:
    pairs = [{"prompt": f"Say {word}.", "chosen": word, "rejected": word} for word in ("one", "two")]
    for kind in ("dpo", "reward"):
        model = {"source": {"type": "local", "identifier": "/nowhere"}}
        warm_host.send(task(kind, kind, tmp_path, model=model, data={"type": "list", "items": pairs}))
        error = warm_host.wait_of(Failed, kind).error
        assert "/nowhere" in error.message
        said = [line for frame in warm_host.frames if isinstance(frame, Telemetry) and frame.task == kind for line in frame.lines]
        assert any(line.startswith("2 of 2 pairs have the same answer") for line in said)
