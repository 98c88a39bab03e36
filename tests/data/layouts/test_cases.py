from pathlib import Path

import pytest

from data.layouts.cases import Case, list_volumes, safe_id, some, strip_suffix, with_safe_ids


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.nii", "a.b"), ("a.hdr.gz", "a"), ("A.NII.GZ", "A"), ("a.npz", "a"), ("a.txt", "a.txt")],
)
def test_strip_suffix(name: str, stem: str) -> None:
    assert strip_suffix(name) == stem


def test_only_volumes_are_listed(tmp_path: Path) -> None:
    others = ("._b.nii.gz", "readme.txt", "f.raw")
    for name in ("b.nii.gz", "a.hdr", "a.img", "c.img.gz", "d.npy", "e.mhd", "e.img", *others):
        (tmp_path / name).touch()
    for name in ("E.NII.GZ", "F.HDR", "F.IMG"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()  # to be told of, once it is read
    names = ["E.NII.GZ", "F.HDR", "a.hdr", "b.nii.gz", "c.img.gz", "d.npy", "e.mhd", "folder.nii"]
    assert [path.name for path in list_volumes(tmp_path)] == names


@pytest.mark.parametrize(("text", "name"), [("a/b c", "a_b_c"), ("../x", "_x"), ("Ö-1.2", "Ö-1.2"), ("//", "_")])
def test_safe_ids(text: str, name: str) -> None:
    assert safe_id(text) == name


def test_cases_are_sorted_and_ids_unique_whatever_their_case() -> None:
    first, second = Case("b", (Path("1"),)), Case("a", (Path("2"),))
    assert [case.id for case in with_safe_ids([first, second], Path("root"))] == ["a", "b"]
    with pytest.raises(ValueError, match=r"root: two cases share the id 'B' \(1 and 3\)"):
        with_safe_ids([first, Case("B", (Path("3"),))], Path("root"))
    assert some(range(3)) == "0, 1, 2"
    assert some(range(9)) == "0, 1, 2, 3, 4 and 4 more"
