import io
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from engine.runs.pack.archive import LIMITS, Archive, PackError, printable, write_archive

MEMBERS = {"README.md": b"# card", "pack.json": b"{}" * 50, "config.yaml": b"a: 1\n", "model.safetensors": b"\0" * 600}


def write_zip(path: Path, *changed: tuple[zipfile.ZipInfo, bytes], without: str = "") -> Path:
    """A zip of MEMBERS but `without`, followed by others."""
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in MEMBERS.items():
            if name != without:
                archive.writestr(zipfile.ZipInfo(name), content)
        for info, content in changed:
            archive.writestr(info, content)
    return path


def info(name: str, compression: int = zipfile.ZIP_STORED, mode: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type, entry.external_attr = compression, mode << 16
    return entry


def expect_refusal(path: Path, match: str, *, read: bool = False) -> None:
    with pytest.raises(PackError, match=match) as caught, Archive(path) as archive:  # noqa: PT012
        if read:
            for name in LIMITS:
                archive.read(name)
    assert "\n" not in str(caught.value)


def test_members_come_back_and_the_same_ones_give_the_same_bytes(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zip", MEMBERS)
    write_archive(tmp_path / "b.zip", MEMBERS)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with Archive(tmp_path / "a.zip") as archive:
        assert {name: archive.read(name) for name in LIMITS} == MEMBERS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_a_member_beyond_its_limit_is_not_written(tmp_path: Path) -> None:
    big = {**MEMBERS, "config.yaml": b"x" * (LIMITS["config.yaml"] + 1)}
    with pytest.raises(PackError, match=r"config\.yaml has 262,145 bytes; a pack takes at most 262,144"):
        write_archive(tmp_path / "a.zip", big)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file " * 40, b"\x80\x04\x95" + b"\0" * 500])
def test_what_is_no_zip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(content)
    expect_refusal(path, "not a (complete )?zip file")


def test_a_missing_file(tmp_path: Path) -> None:
    expect_refusal(tmp_path / "a.zip", "cannot be read")


@pytest.mark.parametrize("cut", [1, 22, 100, 400, 800])
def test_truncated(tmp_path: Path, cut: int) -> None:
    write_archive(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-cut])
    expect_refusal(tmp_path / "b.zip", "not a complete zip file")


@pytest.mark.parametrize("name", list(MEMBERS))
def test_a_missing_member(tmp_path: Path, name: str) -> None:
    expect_refusal(write_zip(tmp_path / "a.zip", without=name), f"{name} is missing")


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/passwd", "a/../../b", "checkpoints/3/model.safetensors", "C:\\x", "PACK.JSON", "x\x1b"]
)
def test_a_member_of_another_name(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "a.zip", (info(name), b"boo"))
    with pytest.raises(PackError, match="unexpected member") as caught:
        Archive(path)
    assert str(caught.value).isprintable()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_two_members_of_one_name(tmp_path: Path) -> None:
    expect_refusal(write_zip(tmp_path / "a.zip", (info("pack.json"), b"{}")), r"two members are named pack\.json")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_a_link_or_special_file(tmp_path: Path, kind: int) -> None:
    entry = (info("pack.json", mode=kind | 0o777), b"/etc/passwd")
    expect_refusal(write_zip(tmp_path / "a.zip", entry, without="pack.json"), "is a link or a special file")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unknown_compression(tmp_path: Path, method: int) -> None:
    entry = (info("config.yaml", method), b"a: 1")
    expect_refusal(write_zip(tmp_path / "a.zip", entry, without="config.yaml"), "encrypted, or compressed by an unkn")


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")  # the first entry of the directory
    content[at + 8] |= 1
    path.write_bytes(content)
    expect_refusal(path, "encrypted")


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    bomb = (info("config.yaml", zipfile.ZIP_DEFLATED), b"\0" * (LIMITS["config.yaml"] + 1))
    expect_refusal(write_zip(tmp_path / "a.zip", bomb, without="config.yaml"), r"config\.yaml declares 262,145 bytes")
    weights = (info("model.safetensors", zipfile.ZIP_DEFLATED), b"\0" * 5_000_000)
    expect_refusal(write_zip(tmp_path / "b.zip", weights, without="model.safetensors"), "is compressed; packs store it")


def set_declared_size(path: Path, name: str, size: int) -> None:
    """Let the archive lie about how large a member is once unpacked."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.find(signature)
        while at >= 0:
            header = 30 if signature == b"PK\x03\x04" else 46
            if content[at + header : at + header + len(name)] == name.encode():
                content[at + offset : at + offset + 4] = struct.pack("<L", size)
            at = content.find(signature, at + 4)
    path.write_bytes(content)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_bomb_that_lies_is_unpacked_no_further_than_it_declares(tmp_path: Path, size: int) -> None:
    entry = (info("config.yaml", zipfile.ZIP_DEFLATED), b"\0" * 100_000)
    path = write_zip(tmp_path / "a.zip", entry, without="config.yaml")
    set_declared_size(path, "config.yaml", size)
    expect_refusal(path, r"config\.yaml is damaged", read=True)


def test_a_flipped_byte(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.find(b"# card")] ^= 1
    path.write_bytes(content)
    expect_refusal(path, r"README\.md is damaged \(Bad CRC", read=True)


def test_the_directory_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", *((info(f"{i}"), b"") for i in range(500)))
    expect_refusal(path, "it holds 504 members")
    comment = tmp_path / "b.zip"
    with zipfile.ZipFile(write_zip(comment), "a") as archive:
        archive.comment = b"hello"
    expect_refusal(comment, "not a complete zip file, or not a pack")


def test_the_64_bit_form_cannot_contradict_the_end(tmp_path: Path) -> None:
    content = write_zip(tmp_path / "a.zip").read_bytes()
    end = content[-22:]
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 10**6, 10**6, 10**9, 0)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, len(content) - 22, 1)
    (tmp_path / "b.zip").write_bytes(content[:-22] + record + locator + end)
    expect_refusal(tmp_path / "b.zip", "of the 64-bit form")


def test_members_that_overlap(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    entries = [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"]
    first = content[entries[0] + 42 : entries[0] + 46]
    content[entries[1] + 42 : entries[1] + 46] = first  # both begin at the same place
    path.write_bytes(content)
    expect_refusal(path, r"pack\.json is damaged", read=True)


@pytest.mark.slow
def test_random_damage_never_ends_in_anything_but_a_refusal(tmp_path: Path) -> None:
    import numpy as np

    write_archive(tmp_path / "a.zip", MEMBERS)
    good = (tmp_path / "a.zip").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "b.zip"
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 3):
            bad[at] = rng.integers(256)
        path.write_bytes(bad)
        try:
            with Archive(path) as archive:
                found = {name: archive.read(name) for name in LIMITS}
        except PackError:
            continue
        assert found == MEMBERS  # what was hit says nothing about the contents: a date, a version


def test_printable() -> None:
    assert printable("naïve café 核") == "naïve café 核"
    assert printable("a\x1b[31m\nb\u202ec\x00\x9b") == "a\ufffd[31m\ufffdb\ufffdc\ufffd\ufffd"
    error = PackError("x\x07.zip", "two\nlines \x1b]0;title")
    assert str(error) == "x\ufffd.zip: two lines \ufffd]0;title"
    assert io.StringIO(str(error)).readlines() == [str(error)]
