"""Patterns told from the names in a folder, and the cases that patterns find."""

import logging
from pathlib import Path

import pytest

from configs.schema.data import DataConfig
from data.layouts.folders import find_images
from data.layouts.names import Guess, guess_patterns
from data.layouts.patterns import match, walk_volumes
from data.layouts.registry import find_cases

CASES = [f"case{number:02}" for number in range(4)]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def of_cases(*forms: str) -> list[str]:
    """Each form for each case: {c} is its name, {n} its number."""
    return [f"{form.format(c=case, n=number)}.nii.gz" for number, case in enumerate(CASES) for form in forms]


BIDS = "sub-{n}/ses-1/anat/sub-{n}_ses-1"


@pytest.mark.parametrize(
    ("forms", "images", "labels"),
    [
        (["{c}/t1", "{c}/flair", "{c}/seg"], ["*/flair", "*/t1"], "*/seg"),
        (["{c}/{c}_t1", "{c}/{c}_flair", "{c}/{c}_seg"], ["*/*_flair", "*/*_t1"], "*/*_seg"),
        (["{c}/{c}_a", "{c}/{c}_a_gt", "{c}/{c}_b{n}", "{c}/{c}_b{n}_gt", "{c}/{c}_4d"], ["*/*"], "*/*_gt"),
        (["{c}/t1", "{c}/tumour_mask", "{c}/tumour_seg"], ["*/t1"], "*/tumour_seg"),
        (["{c}/1/t1", "{c}/1/gt", "{c}/2/t1", "{c}/2/gt"], ["*/*/t1"], "*/*/gt"),
        (["A/{c}/t1", "A/{c}/gt", "B/{c}/t1", "B/{c}/gt"], ["*/*/t1"], "*/*/gt"),
        (["{c}/images/t1", "{c}/images/t2", "{c}/labels/seg"], ["*/images/t1", "*/images/t2"], "*/labels/seg"),
        (["{c}/images/x{n}", "{c}/labels/x{n}"], ["*/images/*"], "*/labels/*"),
        (["sub-{n}/t1", "sub-{n}/seg"], ["*/t1"], "*/seg"),
        (
            [f"{BIDS}_T1w", f"{BIDS}_T2w", f"derivatives/m/{BIDS}_dseg"],
            ["sub-*/**/anat/*_T1w"],
            "derivatives/**/*_dseg",
        ),
        (
            [f"{BIDS}_FLAIR", f"derivatives/m/{BIDS}_label-a_mask", f"derivatives/m/{BIDS}_label-b_mask"],
            ["sub-*/**/anat/*_FLAIR"],
            "derivatives/**/*_label-a_mask",
        ),
        (["{c}_img", "{c}_seg"], ["*_img"], "*_seg"),
        (["{c}_image", "{c}_mask"], ["*_image"], "*_mask"),
        (["{c}_t1", "{c}_t2", "{c}_label"], ["*_t1", "*_t2"], "*_label"),
        (["img{n}", "label{n}"], ["img*"], "label*"),
        (["scan_{n}", "scan_{n}-gt"], ["*"], "*-gt"),
        (["{c}/t1", "{c}/t2"], ["*/t1", "*/t2"], None),
    ],
)
def test_patterns_told_from_names(tmp_path: Path, forms: list[str], images: list[str], labels: str | None) -> None:
    guess = guess_patterns(touch(tmp_path, *of_cases(*forms)))
    ends = tuple(f"{image}.nii.gz" for image in images)
    assert guess == Guess(ends, labels and f"{labels}.nii.gz")


@pytest.mark.parametrize(
    "forms",
    [
        ["{c}"],
        ["{c}/x{n}"],
        ["imagesTr/{c}", "labelsTr/{c}"],
        ["{c}_t1", "{c}_t2"],
        ["t{n}", "mask"],
        ["{c}/a{n}", "{c}/b{n}_x{n}_seg"],
    ],
)
def test_names_that_tell_nothing(tmp_path: Path, forms: list[str]) -> None:
    assert guess_patterns(touch(tmp_path, *of_cases(*forms))) is None


def data(root: Path, images: str | tuple[str, ...], labels: str = "labels") -> DataConfig:
    return DataConfig(root=root, source="folders", images=images, labels=labels)


def test_cases_of_patterns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a/t1.nii", "a/t2.nii", "a/seg.nii", "b/t1.nii", "b/t2.nii", "b/mask.nii", "c/d/e.nii", ".x/t1.nii"]
    touch(tmp_path, *names)
    with caplog.at_level(logging.INFO, "mlx_volumes"):
        listing = find_cases(data(tmp_path, ("*/t1.nii", "*/t2.nii"), "*/seg.nii"))
    first, second = listing.cases
    assert (first.id, first.images) == ("a", (tmp_path / "a/t1.nii", tmp_path / "a/t2.nii"))
    assert (first.label, second.label, listing.channel_names) == (tmp_path / "a/seg.nii", None, ("t1", "t2"))
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "no label for b",
        "5 files: 4 images, 1 labels",
        "not read, as of no case: 2 volumes (b/mask.nii, c/d/e.nii)",
    ]


def test_wildcards(tmp_path: Path) -> None:
    touch(tmp_path, "a1.nii", "b/a2.nii", "b/c/a3.nii", "b/c/d.nii")
    found = {
        pattern: list(match(tmp_path, pattern, walk_volumes(tmp_path))) for pattern in ("**/a?.nii", "*/a[!1].nii")
    }
    assert found == {"**/a?.nii": ["1", "b_2", "b_c_3"], "*/a[!1].nii": ["b_2"]}


def test_labels_are_no_images_but_where_a_pattern_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a_seg.nii", "a_mask.nii")
    assert [len(case.files) for case in find_cases(data(tmp_path, "*.nii", "*_seg.nii")).cases] == [2]
    (case,) = find_cases(data(tmp_path, ("*_mask.nii",), "*_seg.nii")).cases
    assert case.images == (tmp_path / "a_mask.nii",)


@pytest.mark.parametrize(
    ("images", "groups"),
    [
        (["p1/x/t.nii", "p1/y/t.nii", "p2/x/t.nii", "p3/x/t.nii"], ["p1", "p1", "p2", "p3"]),  # visits of patients
        ([f"{site}/p{n}/t.nii" for site in "ab" for n in range(4)], [None] * 8),  # two sites of four patients each
    ],
)
def test_groups_are_patients(tmp_path: Path, images: list[str], groups: list[str | None]) -> None:
    touch(tmp_path, *images)
    assert [case.group for case in find_cases(data(tmp_path, "*/*/t.nii")).cases] == groups


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            "*_x.nii",
            "*_seg.nii",
            r"data\.images=\*_x\.nii: no volume in .* fits; found a_img\.nii, .* 'data\.images=\*_img",
        ),
        ("*_img.nii", "*_y.nii", r"data\.labels=\*_y\.nii: no volume in .* fits; .* set data\.source=folders 'data\."),
        (
            "*.nii",
            "a*.nii",
            r"finds the cases .*, data\.labels=a\*\.nii finds .*, and none is the same; correct the pat",
        ),
        ("[ab]_*.nii", "*_seg.nii", r"a_img\.nii and a_t\.nii are both case 'a'|narrow|none is the same"),
        (("*_img.nii", "*_t.nii"), "*_seg.nii", r"missing channels: b has no \*_t\.nii; add the files, or name fewer"),
        ("images", "labels", r"data\.images='images': no such folder in .*; by their names, set data\.source=folders"),
    ],
)
def test_mistakes(tmp_path: Path, images: str | tuple[str, ...], labels: str, message: str) -> None:
    touch(tmp_path, "a_img.nii", "a_t.nii", "b_img.nii", "a_seg.nii", "b_seg.nii")
    with pytest.raises(ValueError, match=message):
        find_cases(data(tmp_path, images, labels))


def test_two_files_of_one_case(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/sub-1_run-1_T1w.nii", "sub-1/sub-1_run-1_desc-x_T1w.nii")
    with pytest.raises(
        ValueError, match=r"_T1w\.nii are both case 'sub-1_run-1' of '\*/\*_T1w\.nii'; narrow the pattern"
    ):
        find_cases(data(tmp_path, "*/*_T1w.nii"))


def test_images_to_predict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"flat/{case}_{end}.nii" for case in "ab" for end in ("img", "seg")))
    with caplog.at_level(logging.WARNING, "mlx_volumes"):
        cases = find_images(tmp_path / "flat")
    assert [(case.id, case.images[0].name) for case in cases] == [("a", "a_img.nii"), ("b", "b_img.nii")]
    assert "not read, as of no case: 2 volumes (a_seg.nii, b_seg.nii)" in caplog.text
    touch(tmp_path, *(f"new/{case}/{name}.nii" for case in "ab" for name in ("t1", "t2", "extra")))
    assert [len(case.images) for case in find_images(tmp_path / "new", images=("*/t1.nii", "*/t2.nii"))] == [2, 2]
    assert [len(case.images) for case in find_images(tmp_path / "new")] == [3, 3]


@pytest.mark.parametrize(("name", "command"), [("a.tar", "tar xf"), ("a.tar.gz", "tar xf"), ("A.ZIP", "unzip")])
def test_archives_are_unpacked_first(tmp_path: Path, name: str, command: str) -> None:
    touch(tmp_path, name)
    for root in (tmp_path, tmp_path / name):
        message = rf"{name}: a packed archive; unpack it \({command} {name}\), and give the folder it makes"
        with pytest.raises(ValueError, match=message):
            find_cases(DataConfig(root=root, source="msd"))
        with pytest.raises(ValueError, match=message):
            find_images(root)


def test_tests_beside_the_training_images(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii", "imagesTs/b.nii", "labelsTs/b.nii")
    cases = find_cases(data(tmp_path, "imagesTr", "labelsTr")).cases
    assert [(case.id, case.split, case.label is None) for case in cases] == [("a", None, False), ("b", "test", False)]


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.nii", "elsewhere/b.nii")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    assert walk_volumes(tmp_path / "data") == [tmp_path / "data" / name for name in ("a.nii", "more/b.nii")]


def test_a_data_set_s_folder_is_no_folder_of_images(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii")
    with pytest.raises(ValueError, match=r"no volumes; found imagesTr/, labelsTr/; give .*/imagesTr$"):
        find_images(tmp_path)
