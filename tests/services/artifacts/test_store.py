"""One store, used by many threads of many processes at once."""

import errno
import os
import subprocess
import sys

import pytest

from mloc.services.artifacts.store import NameTaken, Store, Upload, UploadDone
from mloc.services.results.folders import BLOBS, UPLOADS
from tests.services.artifacts.store_senders import CONTENTS, PATHS, upload_of


def received(store: Store, upload: Upload, data: bytes):
    id = store.begin(upload)
    receiving = store.receive(id)
    receiving.write(data)
    return id, receiving


def test_senders_in_several_processes_store_each_content_once_while_others_give_up_and_tidy(tmp_path):
    # given two processes with four senders each, which all bring the same files and remove what nobody seems to use
    command = [sys.executable, "-m", "tests.services.artifacts.store_senders", str(tmp_path)]
    senders = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, text=True) for number in range(2)]
    # when all have stored all
    said = [(sender.communicate(timeout=300)[1], sender.returncode) for sender in senders]
    # then no sender met an error, every file is whole, and each content lies on disk once
    assert said == [("", 0)] * 2
    assert [(tmp_path / path).read_bytes() for path in PATHS] == [upload_of(path)[1] for path in PATHS]
    assert len({(tmp_path / path).stat().st_ino for path in PATHS}) == len(CONTENTS)
    assert len(list((tmp_path / BLOBS).glob("??/*"))) == len(CONTENTS)


def test_an_upload_that_was_given_up_while_it_was_sent_says_so(tmp_path):
    store = Store(tmp_path)
    upload, data = upload_of("0/0/f")
    id, receiving = received(store, upload, data)
    store.drop(id)
    with pytest.raises(UploadDone, match="given up"):
        store.finish(id, receiving)
    receiving.close()


def test_content_that_expires_before_it_has_a_place_is_asked_for_again(tmp_path):
    store = Store(tmp_path)
    upload, data = upload_of("0/0/f")
    id, receiving = received(store, upload, data)
    blob = store.finish(id, receiving)
    receiving.close()
    store.expire(-10)
    with pytest.raises(UploadDone, match="expired"):
        store.place(blob, upload.path)


def test_the_note_of_an_upload_stays_as_long_as_something_arrives(tmp_path):
    store = Store(tmp_path)
    id, receiving = received(store, *upload_of("0/0/f"))
    receiving.close()
    os.utime(tmp_path / UPLOADS / f"{id}.json", (1, 1))  # it began long ago
    assert store.expire(3600) == (0, 0)
    assert store.upload(id) is not None
    os.utime(tmp_path / UPLOADS / f"{id}.part", (1, 1))
    assert store.expire(3600)[0] == 2


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", no_link)
    store = Store(tmp_path)
    for number in (0, 1):
        upload, data = upload_of(f"{number}/0/f")
        id, receiving = received(store, upload, data)
        blob = store.finish(id, receiving)
        receiving.close()
        store.place(blob, "a/f" if number == 0 else "b/f")
        store.place(blob, "a/f" if number == 0 else "b/f")
    assert [(tmp_path / name / "f").read_bytes() for name in "ab"] == CONTENTS[:2]
    with pytest.raises(NameTaken):
        store.place(blob, "a/f")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["f"]
