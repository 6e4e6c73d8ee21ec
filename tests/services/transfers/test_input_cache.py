"""The worker's cache of fetched inputs: bounded, by use, never under somebody's feet."""

from pathlib import Path

from mloc.services.transfers.download import Version
from mloc.services.transfers.input_cache import InputCache, Known


def opened(folder: Path, limit: int = 300) -> InputCache:
    cache = InputCache(folder, limit)
    cache.open()
    return cache


def put(cache: InputCache, content: str, size: int = 100) -> None:
    made = cache.place_for_new(content)
    (made / "file").write_bytes(b"x" * size)
    cache.keep(made, content)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for name in ("a", "b", "c"):
        put(cache, name)
    cache.use("a", "t1")
    cache.release("t1")
    put(cache, "d")
    assert [name for name in "abcd" if cache.has(name)] == ["a", "c", "d"]
    assert not (tmp_path / "content" / "b").exists()


def test_what_an_attempt_uses_stays_until_it_ends(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    put(cache, "a")
    folder = cache.use("a", "t1")
    cache.use("a", "t1")
    for name in ("b", "c", "d", "e"):
        put(cache, name)
    assert folder.is_dir()
    cache.release("t1")
    put(cache, "f")
    assert not folder.exists()


def test_a_restarted_worker_finds_what_it_had_in_the_order_of_use_and_clears_up(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    put(cache, "a")
    put(cache, "b")
    cache.note("url", Known("a", Version("e1")))
    cache.use("a", "t")
    (tmp_path / "new" / "leaving-z").mkdir()
    again = opened(tmp_path, limit=200)
    assert again.known("url") == Known("a", Version("e1"))
    assert again.size_bytes == 200
    assert not list((tmp_path / "new").iterdir())


def test_a_url_whose_content_left_is_not_known(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    put(cache, "a")
    cache.note("url", Known("a"))
    cache.make_room(300)
    assert cache.known("url") is None
