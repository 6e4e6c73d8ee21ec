"""The same against a server that speaks S3. It runs where s3fs and moto are installed: pip install s3fs 'moto[server]'."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.mirror.trees import write_tree

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")


SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()
"""


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    server.kill()
    server.wait()


def test_a_tree_is_brought_to_s3_and_an_unreachable_server_is_trouble(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from mloc.services.mirror.object_store import ObjectStore, StoreTrouble

    for name, value in {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    until = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
    tree = write_tree(tmp_path / "results", "t1", {"responses.json": b"{}", "artifacts/w.bin": os.urandom(6 << 20)})
    store = ObjectStore("s3://bucket/results")
    assert store.bring(tree, "t1") == 3
    assert store.bring(tree, "t1") == 0
    assert store._fs.cat_file("bucket/results/t1/artifacts/w.bin") == (tree / "artifacts" / "w.bin").read_bytes()
    with pytest.raises(StoreTrouble) as raised:
        ObjectStore("s3://no-such-bucket/results").bring(tree, "t1")
    assert "geheim" not in str(raised.value)
