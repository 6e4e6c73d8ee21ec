"""Events to entries and back, also old and unknown ones."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloc.core import codec, log_ids
from mloc.core.codec import UnknownEvent
from mloc.core.events import AttemptSucceeded, TaskSubmitted, raw
from mloc.core.host_frames import FrameError, FrameReader, HostReady, Succeeded, encode_frames


@pytest.mark.parametrize("tag", sorted(codec.EVENT_TYPES))
def test_every_event_names_its_type_and_survives_the_round_trip(tag):
    cls = codec.EVENT_TYPES[tag]
    values = {"str": "x", "int": 3, "float": 1.5, "bool": True}
    fields = {f.name: f.default for f in msgspec.structs.fields(cls)}
    for field in msgspec.structs.fields(cls):
        if field.required:
            fields[field.name] = msgspec.convert({"type": "E", "message": "m"}, field.type) if field.name == "error" else values[field.type.__name__]
        elif field.default is msgspec.NODEFAULT:
            fields[field.name] = field.default_factory()
    event = cls(**fields)
    data = codec.encode(event)
    assert msgspec.json.decode(data)["type"] == codec.type_of(event) == tag
    assert codec.decode(tag, data) == event


def test_an_unknown_type_is_said_and_not_raised():
    assert codec.decode("TaskTeleported", b"{}") == UnknownEvent("TaskTeleported")


def test_an_entry_that_does_not_fit_its_type_is_an_error_that_names_it():
    with pytest.raises(codec.CodecError, match="TaskSubmitted"):
        codec.decode("TaskSubmitted", b'{"task":')


def test_a_retired_version_is_turned_into_the_present_one(monkeypatch):
    monkeypatch.setitem(codec.UPCASTERS, "Submitted", ("Submitted@2", lambda fields: {"task": fields["id"]}))
    monkeypatch.setitem(codec.UPCASTERS, "Submitted@2", ("TaskSubmitted", lambda fields: {**fields, "name": fields["task"].upper()}))
    assert codec.decode("Submitted", b'{"type":"Submitted","id":"a"}') == TaskSubmitted(task="a", name="A")


def test_fields_of_a_newer_program_are_passed_over():
    assert codec.decode("TaskSubmitted", b'{"type":"TaskSubmitted","task":"a","mood":"good"}') == TaskSubmitted(task="a")


def test_a_result_without_json_leaves_a_whole_entry():
    event = AttemptSucceeded(task="a", attempt=1, worker="w", incarnation=1, result=raw(b""))
    assert codec.decode("AttemptSucceeded", codec.encode(event)) == event


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 9))
def test_frames_survive_any_cut_of_the_stream(results, step):
    frames = [HostReady(7), *(Succeeded("t", n, result) for n, result in enumerate(results))]
    stream = encode_frames(frames[:2]) + encode_frames(frames[2:])
    reader = FrameReader(from_host=True)
    assert [f for at in range(0, len(stream), step) for f in reader.feed(stream[at : at + step])] == frames


@given(st.binary(min_size=8, max_size=64))
def test_what_is_no_frame_is_an_error_and_nothing_else(noise):
    with contextlib.suppress(FrameError):
        assert isinstance(FrameReader(from_host=True).feed(noise), list)


def test_ids_are_ordered_by_number_not_by_letter():
    assert log_ids.before("9-1", "10-0")
    assert log_ids.before("10-9", "10-10")
    assert not log_ids.before("10-9", "10-9")
