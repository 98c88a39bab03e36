import logging
from pathlib import Path

import pytest

from configs.schema.data import Columns, DataConfig
from data.layouts.folders import find_csv
from data.layouts.registry import find_cases


def folders(root: Path, images: list[str], labels: list[str]) -> DataConfig:
    for folder, names in (("images", images), ("labels", labels)):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).touch()
    return DataConfig(root=root, source="folders")


def table(root: Path, text: str, columns: Columns | None = None) -> DataConfig:
    (root / "cases.csv").write_text(text, encoding="utf-8")
    return DataConfig(root=root / "cases.csv", source="csv", columns=columns or Columns())


class TestFolders:
    @pytest.mark.parametrize(
        ("image", "label", "case_id"),
        [
            ("a.nii.gz", "a.nii.gz", "a"),
            ("a_image.nii.gz", "a_label.nii.gz", "a"),
            ("a.nii", "a_seg.nii.gz", "a"),
            ("a.npy", "a-mask.npz", "a"),
            ("sub-01_T1.nii.gz", "sub-01_T1_GT.nii.gz", "sub-01_T1"),
            ("img0007.nii.gz", "label0007.nii.gz", "0007"),
            ("image_x.nii.gz", "mask_x.nii.gz", "x"),
            ("segovia.nii.gz", "segovia.nii.gz", "segovia"),
        ],
    )
    def test_names_match(self, tmp_path: Path, image: str, label: str, case_id: str) -> None:
        (case,) = find_cases(folders(tmp_path, [image], [label])).cases
        assert case.id == case_id
        assert (case.images, case.label) == ((tmp_path / "images" / image,), tmp_path / "labels" / label)

    def test_pairs_count_once(self, tmp_path: Path) -> None:
        (case,) = find_cases(folders(tmp_path, ["a.hdr", "a.img"], [])).cases
        assert case.images == (tmp_path / "images" / "a.hdr",)

    def test_unmatched_files_are_warned_of(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            listing = find_cases(folders(tmp_path, ["a.nii", "b.nii"], ["b_seg.nii", "c_seg.nii"]))
        assert [(case.id, case.label is None) for case in listing.cases] == [("a", True), ("b", False)]
        said = ["no label for a", "not read, as of no case: 1 volumes (labels/c_seg.nii)"]
        assert [message.split(": ", 1)[1] for message in caplog.messages] == said

    def test_no_labels_at_all(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            listing = find_cases(folders(tmp_path, ["a.nii", "b.nii"], []))
        assert [case.label for case in listing.cases] == [None, None]
        assert "no labels, all 2 cases are unlabelled" in caplog.text

    @pytest.mark.parametrize(
        ("images", "labels", "message"),
        [
            (["a.nii", "a_image.nii"], [], "a.nii and a_image.nii are both case 'a'; rename one"),
            (["a.nii"], ["a_seg.nii", "a_mask.nii"], "a_mask.nii and a_seg.nii are both case 'a'"),
            (["a.nii"], ["b.nii"], r"no image of .*/images \(a.nii\) has the name of a label of .*/labels \(b.nii\)"),
            ([], [], "images: no volumes; found nothing"),
            (["a b.nii", "a_b.nii"], [], "two cases share the id 'a_b'"),
            (["A.nii", "a.nii"], [], "two cases share the id 'a'"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, images: list[str], labels: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(folders(tmp_path, images, labels))

    def test_a_missing_image_folder(self, tmp_path: Path) -> None:
        (tmp_path / "scans").mkdir()
        with pytest.raises(ValueError, match=r"data\.images='images': no such folder in .*; found scans/"):
            find_cases(DataConfig(root=tmp_path, source="folders"))


MASK = Columns(label="mask")


class TestCsv:
    def test_all_columns(self, tmp_path: Path) -> None:
        text = "Path,label,case,split,patient\nscans/a.nii,segs/a.nii,one,Train,p1\n../b.nii,,two,dev,\n\n"
        listing = find_cases(table(tmp_path, "\ufeff" + text))

        first, second = listing.cases
        assert first.images == (tmp_path / "scans/a.nii",)
        assert first.label == tmp_path / "segs/a.nii"
        assert (first.id, first.split, first.group) == ("one", "train", "p1")
        assert second.images == (tmp_path / "../b.nii",)
        assert (second.label, second.id, second.split, second.group) == (None, "two", "val", None)
        assert listing.class_names is None

    @pytest.mark.parametrize("separator", [";", "\t", ", "])
    def test_separators(self, tmp_path: Path, separator: str) -> None:
        text = "\n".join(separator.join(cells) for cells in (("image", "label"), ("a.nii", "b.nii")))
        (case,) = find_cases(table(tmp_path, text)).cases
        assert (case.id, case.label) == ("a", tmp_path / "b.nii")

    def test_several_image_columns_are_channels(self, tmp_path: Path) -> None:
        text = "t1,t2,seg\na1.nii,/elsewhere/a2.nii,a.nii\n"
        (case,) = find_cases(table(tmp_path, text, Columns(image=("t1", "t2"), label="seg"))).cases
        assert case.images == (tmp_path / "a1.nii", Path("/elsewhere/a2.nii"))
        assert case.label == tmp_path / "a.nii"

    def test_a_repeated_file_name_takes_its_folder_along_and_ids_are_safe(self, tmp_path: Path) -> None:
        listing = find_cases(table(tmp_path, "image\np1/ct.nii\np2/ct.nii\np3/mr.nii\n"))
        assert [case.id for case in listing.cases] == ["mr", "p1_ct", "p2_ct"]
        listing = find_cases(table(tmp_path, "image,id\na.nii,../p 1/x:y\n"))
        assert listing.cases[0].id == "_p_1_x_y"

    def test_a_folder_with_one_csv(self, tmp_path: Path) -> None:
        table(tmp_path, "image\na.nii\n")
        config = DataConfig(root=tmp_path, source="csv")
        assert len(find_cases(config).cases) == 1
        (tmp_path / "other.csv").touch()
        with pytest.raises(ValueError, match=r"expected exactly one \.csv in it, found cases\.csv, other\.csv"):
            find_cases(config)

    @pytest.mark.parametrize(
        ("text", "columns", "message"),
        [
            ("scan,seg\na,b\n", Columns(), r"no image column \(looked for image, path, file\); it has scan, seg"),
            ("image,seg\na,b\n", MASK, r"data.columns.label: no column 'mask' in .*; it has image, seg"),
            ("image,label\n", Columns(), "no rows below its header"),
            ("image,label\n,b.nii\n", Columns(), "row 2 has no image"),
            ("image,split\na.nii,hold\n", Columns(), "row 2 has split 'hold'; expected train, val or test"),
            ("image,id\na.nii,x\nb.nii,x\n", Columns(), r"two cases share the id 'x' \(.*a.nii and .*b.nii\)"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, columns: Columns, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(table(tmp_path, text, columns))


@pytest.mark.parametrize("column", ["image", "label"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\0.nii", r'"a\\u0000\.nii" is no path; correct it'),
        ("a" * 256 + ".nii", r'"a{79} … is too long for a path; correct it'),
    ],
)
def test_paths_that_are_none(tmp_path: Path, column: str, name: str, said: str) -> None:
    cells = {"image": "x.nii", "label": "y.nii", column: name}
    (tmp_path / "t.csv").write_text(f"image,label\n{cells['image']},{cells['label']}\n")
    with pytest.raises(ValueError, match=rf"t\.csv: row 2: {said}"):
        find_csv(DataConfig(source="csv", root=tmp_path / "t.csv"))
