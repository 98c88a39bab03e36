from pathlib import Path
from typing import Any

import pytest

from configs.schema.data import DataConfig
from data.layouts.cases import Case
from data.layouts.registry import find_labelled
from data.prepare.statistics import agreed_class_names


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def table(root: Path, text: str) -> Path:
    (root / "cases.csv").write_text(text, encoding="utf-8")
    return root / "cases.csv"


def config(root: Path, source: str = "classes", **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"root": root, "source": source, **settings})


class TestClassFolders:
    def test_volumes(self, tmp_path: Path) -> None:
        tree(tmp_path, "sick/b.nii.gz", "sick/p.hdr", "sick/p.img", "healthy/a.nii", "healthy/.x.nii", "sick/notes.txt")
        listing = find_labelled(config(tmp_path))
        assert listing.class_names == ("healthy", "sick")
        assert not listing.multi_label
        assert listing.cases == (
            Case("a", (tmp_path / "healthy/a.nii",), 0),
            Case("b", (tmp_path / "sick/b.nii.gz",), 1),
            Case("p", (tmp_path / "sick/p.hdr",), 1),
        )

    def test_clips_may_have_any_ending(self, tmp_path: Path) -> None:
        tree(tmp_path, "x/1.MP4", "x/2.mkv", "y/3.webm", "y/4", "y/.DS_Store", "y/labels.csv", "readme.md")
        assert [case.id for case in find_labelled(config(tmp_path, clip={})).cases] == ["1", "2", "3", "4"]

    def test_folders_of_frames_are_clips(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tree(
            tmp_path, "x/1.mp4", "x/clip.v2/f1.png", "x/clip.v2/f2.png", "x/old/a.mp4", "y/3/f1.jpg", "y/.thumbs/a.png"
        )
        found = find_labelled(config(tmp_path, clip={})).cases
        assert [(case.id, case.label) for case in found] == [("1", 0), ("3", 1), ("clip.v2", 0)]
        assert f"{tmp_path / 'x'}: folders that are no clips are not read: old" in caplog.text

    def test_frames_that_are_no_clip_of_a_class(self, tmp_path: Path) -> None:
        tree(tmp_path / "a", "x/1/f1.png", "y/f1.png", "y/f2.png")
        with pytest.raises(ValueError, match=r"y: holds frames, so that it is a clip and no class; .*, CLASS/y/"):
            find_labelled(config(tmp_path / "a", clip={}))
        tree(tmp_path / "b", "x/1.mp4", "x/2.mp4", "x/sub/f1.png", "x/thumb.jpg", "y/1.mp4")
        with pytest.raises(ValueError, match=r"x: 1 images beside clips \(thumb\.jpg\); put the frames of each"):
            find_labelled(config(tmp_path / "b", clip={}))

    def test_class_names_give_the_order(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/1.nii", "b/2.nii")
        listing = find_labelled(config(tmp_path, class_names=["b", "a", "c"]))
        assert [case.label for case in listing.cases] == [1, 0]
        with pytest.raises(ValueError, match=r"b: not one of the classes a, c; rename it, or set data\.class_names"):
            find_labelled(config(tmp_path, class_names=["a", "c"]))

    def test_names_that_several_classes_have(self, tmp_path: Path) -> None:
        tree(tmp_path, "a/scan.nii", "b/scan.nii", "b/other.nii")
        assert [case.id for case in find_labelled(config(tmp_path)).cases] == ["a_scan", "b_scan", "other"]

    def test_split_folders(self, tmp_path: Path) -> None:
        tree(tmp_path, "train/a/1.nii", "train/b/2.nii", "valid/a/1.nii", "test/b/4.nii")
        found = find_labelled(config(tmp_path)).cases
        assert [(case.id, case.label, case.split) for case in found] == [
            ("2", 1, "train"), ("4", 1, "test"), ("train_a_1", 0, "train"), ("val_a_1", 0, "val"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("files", "settings", "message"),
        [
            (["a.nii"], {}, r"data\.source=classes needs a folder for each class; found a\.nii"),
            (["a/1.nii", "b/x.mp4"], {}, r"b: no volumes \(for video, set data\.clip\); found x\.mp4"),
            (["a/1.nii", "b/x.txt"], {"clip": {}}, r"b: no clips; found x\.txt"),
            (["a/1.nii"], {}, r"the classes are \['a'\]; two are needed"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, files: list[str], settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_labelled(config(tree(tmp_path, *files), **settings))

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.root=.*nowhere: no such file or folder"):
            find_labelled(config(tmp_path / "nowhere"))
        with pytest.raises(ValueError, match=r"data\.source=classes needs a folder, this is a file"):
            find_labelled(config(tree(tmp_path, "file") / "file"))


class TestTable:
    def test_names_groups_and_splits(self, tmp_path: Path) -> None:
        path = table(tmp_path, "file,label,group,split\nx/a.mp4,yes,g1,train\nx/b.mp4,no,g2,test\nx/c.mp4,,g2,\n")
        listing = find_labelled(config(path, "csv", clip={}))
        assert listing.class_names == ("no", "yes")
        assert listing.cases == (
            Case("a", (tmp_path / "x/a.mp4",), 1, "train", "g1"),
            Case("b", (tmp_path / "x/b.mp4",), 0, "test", "g2"),
            Case("c", (tmp_path / "x/c.mp4",), None, None, "g2"),
        )

    def test_numbers(self, tmp_path: Path) -> None:
        path = table(tmp_path, "path,diagnosis\na.nii,2\nb.nii,0\n")
        columns = {"label": "diagnosis"}
        listing = find_labelled(config(path, "csv", columns=columns))
        assert listing.class_names == ("0", "1", "2")
        assert [case.label for case in listing.cases] == [2, 0]
        named = find_labelled(config(path, "csv", columns=columns, class_names=["healthy", "mild", "severe"]))
        assert [named.class_names[case.label] for case in named.cases] == ["severe", "healthy"]

    def test_channels(self, tmp_path: Path) -> None:
        path = table(tmp_path, "t1,t2,label\na1.nii,a2.nii,x\nb1.nii,b2.nii,y\n")
        listing = find_labelled(config(path, "csv", columns={"image": ["t1", "t2"]}))
        assert listing.cases[0].images == (tmp_path / "a1.nii", tmp_path / "a2.nii")

    def test_columns_of_their_own(self, tmp_path: Path) -> None:
        path = table(tmp_path, "image,cyst,stone\na.nii,1,0\nb.nii,1,1\nc.nii,0,0\nd.nii,,\n")
        settings = {"columns": {"label": ["cyst", "stone"]}}
        listing = find_labelled(config(path, "csv", **settings))
        assert (listing.class_names, listing.multi_label) == (("cyst", "stone"), True)
        assert [case.label for case in listing.cases] == [(1, 0), (1, 1), (0, 0), None]
        with pytest.raises(ValueError, match=r"there are 2 label columns"):
            find_labelled(config(path, "csv", class_names=["a", "b", "c"], **settings))

    @pytest.mark.parametrize(
        ("text", "settings", "message"),
        [
            (
                "image,label\na.nii,ys\nb.nii,no\n",
                {"class_names": ["yes", "no"]},
                r"row 2 has the label 'ys', .* 'yes'\?",
            ),
            ("image,label\na.nii,7\nb.nii,0\n", {"class_names": ["yes", "no"]}, "row 2 has the label '7', .*yes, no"),
            ("image,label\na.nii,7\nb.nii,12\n", {}, "holds the numbers 12, 7: number the classes from 0"),
            ("image,label\na.nii,\nb.nii,\n", {}, r"holds no label; name it in data\.columns\.label"),
            (
                "image,label\na.nii,a_seg.nii\nb.nii,b_seg.nii\n",
                {},
                r"holds files \(a_seg\.nii, b_seg\.nii\), which is for task=segm",
            ),
            (
                "image,label\n" + "".join(f"{n}.nii,{n}.5\n" for n in range(30)),
                {},
                r"another value in each row \(0\.5, 1\.5, .* and 25 more\), no classes",
            ),
            (
                "image,x,y\na.nii,1,0\nb.nii,2,0\n",
                {"columns": {"label": ["x", "y"]}},
                r"row 3 has \{'x': '2', 'y': '0'\}; classes in columns of their own are 0 or 1",
            ),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_labelled(config(table(tmp_path, text), "csv", **settings))


def test_a_run_s_classes(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.nii", "a/2.nii")
    listing = find_labelled(config(tmp_path), trained=["b", "a"])
    assert [case.label for case in listing.cases] == [0, 1]
    with pytest.raises(ValueError, match=r"the data's classes are \['a', 'b'\], the run was trained with \['b', 'a'\]"):
        agreed_class_names(find_labelled(config(tmp_path, class_names=["a", "b"])), {"class_names": ["b", "a"]})
