"""A copied state goes its own way."""

from mloc.core.cluster import Cluster
from mloc.core.codec import decode
from mloc.core.events import Error
from mloc.core.fold import evolve
from tests.histories import History


def test_folding_a_copy_on_gives_the_same_as_folding_the_original_and_leaves_it_as_it_was() -> None:
    # given a history with every sort of task, cut at each tenth event
    made = History(outcome=lambda task, attempt: Error("Boom", "it broke") if task == "bad" else {"ok": True})
    made.worker("w1")
    made.worker("w2", devices=2)
    for i in range(5):
        made.submit(f"t{i}")
    made.submit("bad", backoff_sec=1.0, timeout_sec=60.0)
    made.pipeline("p", {"a": "sft", "b": "echo"})
    made.settle()
    # when each cut is copied and only the copy folded to the end
    state, copies = Cluster(), []
    for number, entry in enumerate(made.entries):
        if number % 10 == 0:
            copies.append((number, state.copy(), state.copy(), state.digest()))
        evolve(state, entry.id, decode(entry.type, entry.payload))
    # then it ends as the original did, and the copy that was left alone is as it was
    assert len(copies) > 5
    for number, folded, kept, digest in copies:
        for entry in made.entries[number:]:
            evolve(folded, entry.id, decode(entry.type, entry.payload))
        assert (folded.digest(), folded.counts()) == (state.digest(), state.counts())
        assert (list(folded.ready.in_order(folded.tasks, set())), folded.next_due_ms()) == ([], state.next_due_ms())
        assert kept.digest() == digest
