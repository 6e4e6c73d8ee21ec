"""Rows that a training cannot learn from are told in one way, whichever training it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mloc.executors.contract import ExecutorError
from mloc.executors.rows.data_loading import examples
from mloc.executors.rows.rows import Row
from mloc.executors.training.group_executor import _prompts
from mloc.executors.training.preferences import labelled_examples, preference_examples


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
