"""Where a task goes, why not, and that a needless crowd does not slow the others."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mloc.core.decisions import placement
from mloc.core.decisions.placement import Room
from mloc.core.events import EngineReady, EngineSlept, EngineWoke, Error, Need, Parallel, TaskDispatched
from mloc.core.order import ascending
from mloc.core.sharding import shard_count, shard_range
from mloc.core.worker import seconds_to_ready
from tests.core.history import ECHO, GIB, GPU, TRAIN, History, dispatch_of, only


def test_the_first_thing_that_does_not_fit_is_named():
    history = History()
    history.worker(devices=1)
    worker = history.cluster.workers["w"]
    cases = {
        Need("dpo"): "it does not offer task type dpo",
        Need("sft", tags=("eu",)): "it lacks the tag eu",
        Need("sft", cpu=16): "it has 8 CPUs, 16 are needed",
        Need("sft", memory=100 * GIB): "it has 64.0 GiB of memory, 100.0 are needed",
        Need("sft", gpus=2): "it has 1 GPUs, 2 are needed",
        Need("sft", gpus=1, gpu_type="a100"): "it has 0 GPUs of type a100, 1 are needed",
        Need("sft", gpus=1, gpu_memory=90 * GIB): "0 of its GPUs have 90.0 GiB, 1 are needed",
        Need("sft", gpus=1, gpu_type="H200", gpu_memory=80 * GIB): "",
    }
    assert {need: placement.misfit(history.cluster, worker, need) for need in cases} == cases


def test_a_part_of_its_type_that_a_worker_lacks_is_named():
    history = History()
    history.worker()
    judging = replace(history.cluster.workers["w"], task_types=frozenset({"eval"}), lacks={"eval/lm-eval": "no lm_eval", "agent/mcp": "no mcp"})
    assert placement.misfit(history.cluster, judging, Need("eval", parts=("lm-eval",))) == "it does not offer eval/lm-eval"
    assert placement.misfit(history.cluster, judging, Need("eval")) == ""
    assert placement.misfit(history.cluster, replace(judging, lacks={}), Need("eval", parts=("lm-eval",))) == ""


def test_a_warm_engine_wins_over_an_idle_worker_and_a_failed_one_is_avoided():
    history = History()
    history.worker("w1", slots=2)
    history.worker("w2", slots=2)
    history.add(EngineReady(worker="w2", incarnation=1, engine="tiny"))
    need = Need("sft", engine="tiny")
    history.submit("a", need, backoff_sec=0.0)
    history.submit("b", need)
    first = {d.task: d for d in only(history.settle(), TaskDispatched)}
    assert {d.worker for d in first.values()} == {"w2"}
    history.fail(first["a"], Error("E", "x"))
    assert dispatch_of(history.settle(), "a").worker == "w1"


def test_an_engine_that_sleeps_is_sooner_ready_than_one_that_must_load_and_both_than_one_that_was_never_there():
    # given an engine that one worker let go, that one has asleep, and that one never had
    history = History()
    for name in ("w1", "w2", "w3"):
        history.worker(name)
    for name in ("w2", "w3"):
        history.add(EngineReady(worker=name, incarnation=1, engine="tiny", seconds=40.0, load_sec=40.0))
    history.add(EngineSlept(worker="w2", incarnation=1, engine="tiny", seconds=0.1))
    history.add(EngineSlept(worker="w3", incarnation=1, engine="tiny", seconds=1.5, asleep=True))
    workers = history.cluster.workers
    assert [seconds_to_ready(workers[name], "tiny") for name in ("w1", "w2", "w3")] == [inf, 40.0, 1.5]
    # when tasks want it
    for task in ("a", "b", "c"):
        history.submit(task, Need("sft", engine="tiny"))
    sent = [event.worker for event in only(history.settle(), TaskDispatched)]
    # then they go where it is ready soonest
    assert sent == ["w3", "w2", "w1"]
    history.add(EngineWoke(worker="w3", incarnation=1, engine="tiny", seconds=2.5))
    assert (workers["w3"].engines, workers["w3"].asleep) == (("tiny",), ())
    assert workers["w3"].engine_sec == {"tiny": 2.5}


def test_tasks_that_state_their_memory_share_a_device_and_others_take_it_whole():
    history = History()
    history.worker(devices=1)
    small = Need("inference", gpus=1, gpu_memory=30 * GIB)
    for id in "abc":
        history.submit(id, small)
    history.submit("whole", GPU)
    assert [d.task for d in only(history.settle(), TaskDispatched)] == ["a", "b"]


def test_light_work_is_sent_ahead_and_long_work_is_not():
    history = History()
    history.worker(slots=1)
    for number in range(200):
        history.submit(f"e{number}", ECHO)
        history.submit(f"s{number}", TRAIN)
    sent = only(history.settle(), TaskDispatched)
    assert sum(d.task.startswith("e") for d in sent) == placement.LIGHT_FIRST
    assert sum(d.task.startswith("s") for d in sent) == 1


def test_short_host_tasks_wait_behind_the_slots_once_their_duration_is_known():
    history = History()
    history.worker(slots=1)
    history.cluster.mean_ms["sft"] = 20.0
    for number in range(20):
        history.submit(f"s{number}", TRAIN)
    assert len(only(history.settle(), TaskDispatched)) == 1 + 5


def test_a_need_without_a_worker_is_left_aside_after_one_look(monkeypatch):
    history = History()
    for number in range(2000):
        history.submit(f"g{number}", GPU, priority=90)
    history.submit("e", ECHO)
    history.worker()
    looks = []
    monkeypatch.setattr(placement, "misfit", lambda *a, real=placement.misfit: looks.append(a) or real(*a))
    monkeypatch.setattr(Room, "place", lambda self, need, real=Room.place: looks.append(need) or real(self, need))
    assert [d.task for d in history.decide()] == ["e"]
    assert len(looks) < 20


@given(st.integers(1, 64), st.integers(0, 1000))
def test_shards_cover_the_items_in_order_and_evenly(count, items):
    ranges = [shard_range(i, count, items) for i in range(count)]
    assert [n for r in ranges for n in r] == list(range(items))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(st.integers(0, 100), st.integers(0, 50), st.integers(1, 64), st.integers(1, 10))
def test_no_more_shards_than_limits_and_items_allow(items, workers, most, least):
    count = shard_count(Parallel(shards=0, max_shards=most, min_items_per_shard=least), items, workers)
    assert 1 <= count <= most
    assert items == 0 or count == 1 or items // count >= least


@given(st.lists(st.tuples(st.integers(), st.integers())))
def test_a_heap_is_walked_in_order_without_being_changed(items):
    import heapq

    heap = list(items)
    heapq.heapify(heap)
    before = list(heap)
    assert list(ascending(heap)) == sorted(items)
    assert heap == before
