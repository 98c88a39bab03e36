"""Tables: which files, splits and folds their rows name, and what is said of a wrong cell."""

from pathlib import Path
from typing import Any

import pytest

from configs.schema.data import DataConfig
from data.layouts.folders import find_csv, find_unlabelled_rows
from data.layouts.table import Table, read_table, require_files


def read(root: Path, text: str, **settings: Any) -> Table:
    (root / "cases.csv").write_text(text)
    return read_table(DataConfig.model_validate({"source": "csv", "root": root / "cases.csv", **settings}))


class TestPatterns:
    def test_a_pattern_names_the_files(self, tmp_path: Path) -> None:
        columns = {"image": "clips/{class}/{youtube_id}_{begin:06d}.mp4"}
        table = read(tmp_path, "youtube_id,begin,class\nabc,12,run\nx-y,0,jump\n", columns=columns)
        assert [row.images for row in table.rows] == [
            (tmp_path / "clips/run/abc_000012.mp4",),
            (tmp_path / "clips/jump/x-y_000000.mp4",),
        ]
        assert [row.id for row in table.rows] == ["abc_000012", "x-y_000000"]

    def test_of_images_and_labels(self, tmp_path: Path) -> None:
        (tmp_path / "cases.csv").write_text("id,seconds\na,1.5\nb,\n")
        columns = {"image": ["t1/{id}.nii", "t2/{id}.nii"], "label": "seg/{id}_{seconds:.2f}.nii"}
        config = DataConfig.model_validate({"source": "csv", "root": tmp_path / "cases.csv", "columns": columns})
        first, second = find_csv(config).cases
        assert first.images == (tmp_path / "t1/a.nii", tmp_path / "t2/a.nii")
        assert (first.label, second.label) == (tmp_path / "seg/a_1.50.nii", None)

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("{yt_id}.mp4", r"data\.columns\.image: no column 'yt_id' in .*cases\.csv; did you mean 'yt-id'\? it has"),
            ("{yt-id.mp4", r"data\.columns\.image: '\{yt-id\.mp4' is no pattern \(expected '}' before end of string\)"),
            ("{yt-id!r}.mp4", r"a column in it is written \{name\}, \{name:06d\} or \{name:\.2f\}"),
            ("{begin:099999999d}.mp4", r"a column in it is written \{name\}"),
            ("{begin:06d}.mp4", r'cases\.csv: row 2 has begin "soon"; \{begin:06d\} expects a whole number'),
            ("{empty}.mp4", r"cases\.csv: row 2 has no \{empty\}\.mp4"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, pattern: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(tmp_path, "yt-id,begin,empty\na,soon,\n", columns={"image": pattern})


class TestFolder:
    @pytest.mark.parametrize("folder", ["videos", "../videos", "/elsewhere"])
    def test_where_relative_paths_begin(self, tmp_path: Path, folder: str) -> None:
        table = read(tmp_path, "file\na.mp4\n/b.mp4\n", columns={"folder": folder})
        assert [row.images for row in table.rows] == [(tmp_path / folder / "a.mp4",), (Path("/b.mp4"),)]

    def test_of_labels(self, tmp_path: Path) -> None:
        (tmp_path / "cases.csv").write_text("image,label\na.nii,seg/a.nii\n")
        settings = {"source": "csv", "root": tmp_path / "cases.csv", "columns": {"folder": "data"}}
        (case,) = find_csv(DataConfig.model_validate(settings)).cases
        assert case.label == tmp_path / "data/seg/a.nii"

    def test_none_of_the_files_exists(self, tmp_path: Path) -> None:
        (tmp_path / "cases.csv").write_text("image,label\na.nii,\nb.nii,\n")
        config = DataConfig.model_validate({"source": "csv", "root": tmp_path / "cases.csv"})
        with pytest.raises(
            ValueError, match=r"cases\.csv: none of its 2 files exists, the first is .*a\.nii; say where"
        ):
            require_files(find_csv(config).cases, config)
        (tmp_path / "b.nii").touch()
        require_files(find_csv(config).cases, config)


class TestSplitsAndFolds:
    def test_other_names(self, tmp_path: Path) -> None:
        text = "image,split\na.nii,Development\nb.nii,TESTING\nc.nii,A\nd.nii,2\ne.nii,\n"
        table = read(tmp_path, text, columns={"splits": {"a": "train", 2: "test"}})
        assert [row.split for row in table.rows] == ["val", "test", "train", "test", None]

    def test_an_unknown_name(self, tmp_path: Path) -> None:
        message = r"row 3 has part 'B'; expected train, val or test, or say .*: 'data\.columns\.splits=\{B: train\}'"
        with pytest.raises(ValueError, match=message):
            read(tmp_path, "image,part\na.nii,A\nb.nii,B\n", columns={"split": "part", "splits": {"A": "train"}})

    def test_folds(self, tmp_path: Path) -> None:
        assert [row.fold for row in read(tmp_path, "image,fold\na.nii,3\nb.nii,\n").rows] == ["3", None]
        columns = {"fold": "part"}
        assert [row.fold for row in read(tmp_path, "image,fold,part\na.nii,3,x\n", columns=columns).rows] == ["x"]

    def test_false_takes_no_column(self, tmp_path: Path) -> None:
        table = read(tmp_path, "image,fold,split\na.nii,3,hold\n", columns={"fold": False, "split": False})
        assert [(row.fold, row.split) for row in table.rows] == [(None, None)]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "image,lable\na,b\n",
            {"label": "label"},
            r"no column 'label' in .*; did you mean 'lable'\? it has image, lab",
        ),
        (
            "image,label\na,b\n\nc,d,e\n",
            {},
            r'row 4 has 3 cells, the header 2 columns; put cells that hold "," in doub',
        ),
        ("image,label,label\na,b,c\n", {}, r"the header has the column 'label' twice; rename one"),
        ('image,label\n"a\nb",c\n,d\n', {}, "row 4 has no image"),
        ("", {}, r"no image column \(looked for image, path, file\); it has none"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, columns=columns)


class TestSegments:
    TEXT = "file,start,end,label\na/m.mp4,0,2.5,run\na/m.mp4,0:01:02.5,1:10,jump\nn.mp4,,,run\n"

    def test_of_clips(self, tmp_path: Path) -> None:
        rows = read(tmp_path, self.TEXT, clip={}).rows
        assert [row.interval_s for row in rows] == [(0, 2.5), (62.5, 70), None]
        assert [row.id for row in rows] == ["m_0-2.5", "m_62.5-70", "n"]
        assert [row.group for row in rows] == ["a/m.mp4", "a/m.mp4", "n.mp4"]

    def test_groups_and_ids_of_their_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        text = "file,from,to,id,group\nm.mp4,0,1,x,g\nm.mp4,1,2,y,h\n"
        rows = read(tmp_path, text, clip={}, columns={"start": "from", "end": "to"}).rows
        assert [(row.id, row.group, row.interval_s) for row in rows] == [("x", "g", (0, 1)), ("y", "h", (1, 2))]
        assert "segments of one clip are in several groups (m.mp4)" in caplog.text
        rows = read(tmp_path, text, clip={}, columns={"start": "from", "end": "to", "group": False}).rows
        assert [row.group for row in rows] == [None, None]

    def test_ids_of_videos(self, tmp_path: Path) -> None:
        rows = read(tmp_path, "id,start,end\nv,0,1\nv,1,2\nw,0,1\n", clip={}, columns={"image": "{id}.mp4"}).rows
        assert [row.id for row in rows] == ["v_0-1", "v_1-2", "w"]

    def test_volumes_have_none(self, tmp_path: Path) -> None:
        rows = read(tmp_path, "image,start,end\na.nii,monday,friday\n").rows
        assert [(row.id, row.interval_s, row.group) for row in rows] == [("a", None, None)]

    def test_files_that_are_segments_already(self, tmp_path: Path) -> None:
        columns = {"image": "{id}_{start}.mp4", "id": False}
        rows = read(tmp_path, "id,start,end\na,3,13\n", clip={}, columns=columns).rows
        assert [(row.id, row.interval_s, row.group) for row in rows] == [("a_3", None, None)]

    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            ("5,4", r"row 2 ends at 4, which is not after its start, 5; correct it"),
            (",0", r"row 2 ends at 0, which is not after its start, 0"),
            ("5,", r"row 2 has end ''; expected seconds, as in 72\.5 or 0:01:12\.5"),
            ("soon,4", r"row 2 has start 'soon'; expected seconds"),
            ("-1,4", r"row 2 has start '-1'; expected seconds"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, cells: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read(tmp_path, f"file,start,end\nm.mp4,{cells}\n", clip={})


class TestUnlabelled:
    def config(self, **columns: Any) -> DataConfig:
        return DataConfig.model_validate({"source": "csv", "root": "elsewhere", "columns": columns})

    def test_a_table_to_predict(self, tmp_path: Path) -> None:
        (tmp_path / "new.csv").write_text("name,split\na,hold\nb,hold\n")
        config = self.config(image="{name}.nii", label="diagnosis", id="name")
        found = find_unlabelled_rows(tmp_path / "new.csv", config)
        assert [(case.id, case.images, case.label, case.split) for case in found] == [
            ("a", (tmp_path / "a.nii",), None, None),
            ("b", (tmp_path / "b.nii",), None, None),
        ]
        assert find_unlabelled_rows(tmp_path, config) == found

    def test_a_folder_of_files_is_no_table(self, tmp_path: Path) -> None:
        (tmp_path / "new.csv").write_text("image\na.nii\n")
        (tmp_path / "a.nii").touch()
        assert find_unlabelled_rows(tmp_path, self.config()) == ()
        assert find_unlabelled_rows(tmp_path / "a.nii", self.config()) == ()
