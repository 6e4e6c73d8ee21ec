"""Archives: packed the same way each time, unpacked whole or not at all, and never outside of their folder."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mloc.services.artifacts import archive_streams
from mloc.services.artifacts.archive_streams import ArchiveRefused, TooLarge
from mloc.services.artifacts.archives import Limits, unpack
from mloc.services.artifacts.packing import format_of, pack

PACKERS = {
    "tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress, "tar.zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def entry(name: str, type_: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, target
    return info


def zip_of(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as container:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            container.writestr(info, content)
    return out.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(tmp_path: Path, archive: bytes, limits: Limits | None = None) -> str:
    """The reason; nothing is left of the archive, inside or outside of its folder."""
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    (place / "archive").write_bytes(archive)
    before = {path for path in tmp_path.rglob("*") if place / "in" not in path.parents}
    with pytest.raises(ArchiveRefused) as caught:
        unpack(place / "archive", place / "in" / "target", limits)
    (place / "in").rmdir()  # empty
    assert {path for path in tmp_path.rglob("*") if place / "in" not in path.parents} == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"])
def test_a_folder_comes_back_from_its_archive_and_packs_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = tmp_path / "model"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "deep" / "er" / "weights.bin").write_bytes(random.Random(1).randbytes(3 << 20))
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o700)
    (source / "again.json").symlink_to("config.json")
    size = pack(source, tmp_path / name)
    assert size == (tmp_path / name).stat().st_size
    # when it is packed again later
    os.utime(source / "config.json", (1, 1))
    pack(source, tmp_path / f"b-{name}", format_of(name))
    assert (tmp_path / name).read_bytes() == (tmp_path / f"b-{name}").read_bytes()
    # then it unpacks to what it was, the link as a file
    unpacked = unpack(tmp_path / name, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
    assert (unpacked.files, unpacked.size_bytes) == (4, sum(len(content) for content in tree(source).values()))
    assert stat.S_IMODE((tmp_path / "out" / "run.sh").stat().st_mode) == 0o755
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_a_link_that_leads_out_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(ArchiveRefused, match="no file of"):
        pack(tmp_path / "model", tmp_path / "a.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", PACKERS)
def test_every_kind_is_known_by_its_bytes(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "no-suffix"
    archive.write_bytes(PACKERS[kind](tar_of(entry(".", tarfile.DIRTYPE), ("./a/b.txt", b"hello"), ("c" * 200, b"long"))))
    assert unpack(archive, tmp_path / "out").kind == kind
    assert tree(tmp_path / "out") == {"a/b.txt": b"hello", "c" * 200: b"long"}


def test_links_inside_become_files(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar_of(
            ("blobs/x", b"weights"), entry("snap/model", tarfile.SYMTYPE, "../blobs/x"), entry("snap/hard", tarfile.LNKTYPE, "blobs/x"),
            entry("snap/second", tarfile.SYMTYPE, "model"),
        )
    )  # fmt: skip
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert tree(tmp_path / "out") == dict.fromkeys(("blobs/x", "snap/model", "snap/hard", "snap/second"), b"weights")
    (tmp_path / "a.zip").write_bytes(zip_of(("link", b"plain"), mode=stat.S_IFLNK | 0o777))
    assert "no file of the archive" in refused(tmp_path, (tmp_path / "a.zip").read_bytes())


HOSTILE = {
    "parent": tar_of(("../evil", b"x")),
    "parent in the middle": tar_of(("a/../../evil", b"x")),
    "absolute": tar_of(("/tmp/evil", b"x")),
    "backslash": tar_of(("..\\evil", b"x")),
    "control character": tar_of(("a\nb", b"x")),
    "link out": tar_of(entry("a", tarfile.SYMTYPE, "../../evil")),
    "absolute link": tar_of(entry("a", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link out": tar_of(entry("a", tarfile.LNKTYPE, "../archive")),
    "hard link to nothing": tar_of(entry("a", tarfile.LNKTYPE, "b")),
    "written through a link": tar_of(entry("a", tarfile.SYMTYPE, "."), ("a/evil", b"x")),
    "links in a circle": tar_of(entry("a", tarfile.SYMTYPE, "b"), entry("b", tarfile.SYMTYPE, "a")),
    "long chain of folders and links": tar_of(
        ("d" * 200 + "/x", b""), entry("a", tarfile.SYMTYPE, "d" * 200), entry("a/b", tarfile.SYMTYPE, "../../../.."), ("a/b/evil", b"x")
    ),
    "link with an empty name": tar_of(entry("", tarfile.SYMTYPE, "../.."), ("evil", b"x")),
    "device": tar_of(entry("a", tarfile.CHRTYPE)),
    "pipe": tar_of(entry("a", tarfile.FIFOTYPE)),
    "twice": tar_of(("a", b"1"), ("a", b"2")),
    "file and folder": tar_of(("a", b"1"), ("a/b", b"2")),
    "folder and file": tar_of(("a/b", b"2"), ("a", b"1")),
    "too deep": tar_of(("a/" * 40 + "b", b"")),
    "part too long": tar_of(("a" * 250, b"")),
    "sparse": tar_of(entry("a", tarfile.GNUTYPE_SPARSE)),
    "cut off": tar_of(("a", b"x" * 2000), ("b", b"y"))[:3000],
    "without an end": tar_of(("a", b"x" * 512))[:1024],
    "gzip cut off": gzip.compress(tar_of(("a", random.Random(2).randbytes(9000))))[:5000],
    "gzip with a wrong checksum": gzip.compress(tar_of(("a", b"x")))[:-8] + bytes(8),
    "zip: parent": zip_of(("../evil", b"x")),
    "zip: absolute": zip_of(("/evil", b"x")),
    "zip: link out": zip_of(("a", b"../../evil"), mode=stat.S_IFLNK | 0o777),
    "zip: device": zip_of(("a", b""), mode=stat.S_IFCHR | 0o666),
    "zip: twice": zip_of(("a", b"x"), ("b", b"y")).replace(b"b", b"a"),
    "zip: cut off": zip_of(("a", random.Random(3).randbytes(9000)))[:5000],
    "nothing": b"",
    "no archive": b"hello" * 100,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    assert refused(tmp_path, HOSTILE[what])


def test_limits_on_size_and_count_hold_for_what_is_really_unpacked(tmp_path: Path) -> None:
    many = tar_of(*((f"f{number}", b"") for number in range(20)))
    assert "more than 10 members" in refused(tmp_path, many, Limits(files=10))
    large = tar_of(("a", b"x" * 600), ("b", b"x" * 600))
    assert "more than 1,000 bytes" in refused(tmp_path, large, Limits(total_bytes=1000))
    assert "more than 1,000 bytes" in refused(tmp_path, zip_of(("a", b"x" * 600), ("b", b"x" * 600)), Limits(total_bytes=1000))
    # a zip that says less than it holds
    lying = zip_of(("a", b"x" * 5000)).replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    refused(tmp_path, lying, Limits(total_bytes=1000))
    assert "list of members" in refused(tmp_path, zip_of(*((f"f{number}", b"") for number in range(500))), Limits(files=10))


def test_an_archive_that_blows_up_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_streams, "RATIO_FROM_BYTES", 1 << 20)
    monkeypatch.setattr("mloc.services.artifacts.archives.RATIO_FROM_BYTES", 1 << 20)
    zeros = bytes(8 << 20)
    for bomb in (*(PACKERS[kind](tar_of(("a", zeros))) for kind in ("tar.gz", "tar.bz2", "tar.xz", "tar.zst")), zip_of(("a", zeros), ("b", b""))):
        assert "times its size" in refused(tmp_path, bomb, Limits(ratio=20))


def test_a_header_that_would_fill_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = entry("x", tarfile.XHDTYPE)
    header.size = 4 << 30
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    with pytest.raises(TooLarge, match="header"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_what_is_in_the_way_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(("a", b"new")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    with pytest.raises(OSError, match="not empty"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


names = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c\\d", "\0", "e" * 300, "~", "…"]), min_size=1, max_size=4).map("/".join)
members = st.tuples(
    names, st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]), names
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members, max_size=6), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.randoms(use_true_random=False))
def test_whatever_an_archive_holds_only_its_own_folder_is_written(tmp_path_factory, found, format, random) -> None:
    place = tmp_path_factory.mktemp("fuzz")
    (place / "outside").write_text("safe")
    archive = bytearray(tar_of(*(entry(name, type_, target) for name, type_, target in found), format=format))
    for _ in range(random.randrange(4)):  # and some of it is broken
        archive[random.randrange(len(archive))] = random.randrange(256)
    (place / "a.tar").write_bytes(bytes(archive))
    try:
        unpack(place / "a.tar", place / "x" / "y" / "out")
        assert not any(path.is_symlink() for path in place.rglob("*"))
        assert all(path.resolve().is_relative_to(place / "x" / "y" / "out") for path in (place / "x" / "y" / "out").rglob("*"))
    except ArchiveRefused:
        assert not (place / "x" / "y" / "out").exists()
    assert (place / "outside").read_text() == "safe"
    assert {path.name for path in place.iterdir()} <= {"outside", "a.tar", "x"}
    assert {path.name for path in (place / "x" / "y").iterdir()} <= {"out"}
