"""One process of several that upload the same few contents into one store, break off, give up, and tidy what they believe nobody uses."""

from __future__ import annotations

import hashlib
import random
import sys
import threading
from pathlib import Path

from mloc.services.artifacts.receiving import UploadBusy
from mloc.services.artifacts.store import NameTaken, Store, Upload, UploadDone

CONTENTS = [random.Random(number).randbytes(20_000 + number) for number in range(4)]
PATHS = [f"{number}/{copy}/f" for number in range(4) for copy in range(2)]  # the content's number, and where it goes
PIECE = 4_000


class BrokenOff(Exception):
    """The sender lost its connection."""


def upload_of(path: str) -> tuple[Upload, bytes]:
    data = CONTENTS[int(path.partition("/")[0])]
    return Upload("t", 0, path, "f", hashlib.sha256(data).hexdigest(), len(data)), data


def send(store: Store, draw: random.Random, path: str) -> None:
    """One try."""
    upload, data = upload_of(path)
    id = store.begin(upload, apart=draw.random() < 0.2)
    if draw.random() < 0.1:
        store.drop(id)
    blob = store.known(upload) if draw.random() < 0.5 else None
    if blob is None:
        receiving = store.receive(id)
        try:
            while receiving.offset < len(data):
                receiving.write(data[receiving.offset : receiving.offset + PIECE])
                if draw.random() < 0.1:
                    raise BrokenOff
            assert receiving.sha256 == upload.sha256
            blob = store.finish(id, receiving)
        finally:
            receiving.close()
    store.place(blob, path)
    store.done(id, upload)


def send_until_stored(store: Store, seed: int, failures: list[BaseException]) -> None:
    draw = random.Random(seed)
    for path in draw.sample(PATHS, len(PATHS)):
        while True:
            try:
                send(store, draw, path)
                break
            except (UploadDone, UploadBusy, BrokenOff):
                store.expire(0)
            except (OSError, NameTaken, AssertionError) as error:
                failures.append(error)
                return


if __name__ == "__main__":
    failed: list[BaseException] = []
    senders = [
        threading.Thread(target=send_until_stored, args=(Store(Path(sys.argv[1])), int(sys.argv[2]) * 10 + number, failed)) for number in range(4)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for failure in failed:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
    sys.exit(bool(failed))
