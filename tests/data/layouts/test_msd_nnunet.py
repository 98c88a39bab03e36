import json
import logging
from pathlib import Path
from typing import Any

import pytest

from configs.schema.data import DataConfig
from data.layouts.cases import Case
from data.layouts.folders import find_images
from data.layouts.msd_nnunet import find_msd, find_nnunet
from data.layouts.registry import find_cases


def decathlon(root: Path, **changes: Any) -> DataConfig:
    facts = {
        "labels": {"0": "background", "1": "front", "2": "back"},
        "modality": {"0": "T1", "1": "T2"},
        "training": [
            {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
            {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        ],
        "test": ["./imagesTs/c.nii.gz"],
        **changes,
    }
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return DataConfig(source="msd", root=root)


def nnunet(root: Path, *names: str, facts: dict[str, Any] | None = None) -> DataConfig:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if facts is not None:
        (root / "dataset.json").write_text(json.dumps(facts))
    return DataConfig(root=root, source="nnunet")


class TestDecathlon:
    def test_cases_names_and_channels(self, tmp_path: Path) -> None:
        listing = find_cases(decathlon(tmp_path))
        assert [case.id for case in listing.cases] == ["a", "b", "c"]
        first, _, last = listing.cases
        assert first.images == (tmp_path / "imagesTr/a.nii.gz",)
        assert first.label == tmp_path / "labelsTr/a.nii.gz"
        assert (first.split, last.split, last.label) == (None, "test", None)
        assert listing.class_names == ("background", "front", "back")
        assert listing.channel_names == ("T1", "T2")
        config = decathlon(tmp_path).model_copy(update={"class_names": ("nothing", "one", "two")})
        assert find_cases(config).class_names == ("nothing", "one", "two")

    @pytest.mark.parametrize("path", ["../other/a.nii.gz", "/etc/passwd", "imagesTr/../../a.nii.gz"])
    @pytest.mark.parametrize("root", [None, ".", ".."])
    def test_paths_that_leave_the_root(
        self, tmp_path: Path, path: str, root: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = decathlon(tmp_path, training=[{"image": "a.nii.gz", "label": path}])
        if root is not None:
            (tmp_path / "inside").mkdir()
            monkeypatch.chdir(tmp_path if root == "." else tmp_path / "inside")
            config = DataConfig(source="msd", root=Path(root))
        with pytest.raises(ValueError, match=rf"training\[0\]: '{path}' leaves the data root"):
            find_cases(config)

    def test_a_missing_json_names_the_layouts_and_what_was_found(self, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        (tmp_path / "table.csv").touch()
        message = r"no dataset.json.*found images/, table.csv\. Choose data.source .*msd: .*nnunet: .*folders: .*csv: "
        with pytest.raises(ValueError, match=message):
            find_cases(DataConfig(source="msd", root=tmp_path))

    def test_a_missing_root(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.root=.*/none: no such file or folder"):
            find_cases(DataConfig(source="msd", root=tmp_path / "none"))
        (tmp_path / "a.json").touch()
        with pytest.raises(ValueError, match=r"data\.source=msd needs a folder, this is a file"):
            find_cases(DataConfig(source="msd", root=tmp_path / "a.json"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"training": None}, "no 'training' list, .* it has labels, modality, test"),
            ({"training": None, "channel_names": {}}, "looks like nnU-Net's: set data.source=nnunet"),
            ({"training": {}}, "'training' must be a list of cases, got dict"),
            ({"training": [{"label": "a"}]}, r"training\[0\] must be {\"image\": path"),
            ({"labels": {"0": "background", "2": "b"}}, "'labels' must be numbered 0, 1, 2 … without gaps, got 0, 2"),
            ({"labels": ["background"]}, "'labels' must be"),
            ({"test": ["x/b.nii"]}, r"two cases share the id 'b' \(.*imagesTr/b.nii.gz and .*x/b.nii\)"),
            ({"training": [], "test": []}, "no cases; data.source=msd expects dataset.json that lists"),
        ],
    )
    def test_mistakes_in_the_json(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(decathlon(tmp_path, **changes))

    @pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "expected a JSON object, got list")])
    def test_what_is_no_json(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            find_cases(DataConfig(source="msd", root=tmp_path))

    def test_the_hippocampus_listing(self, datasets: Path) -> None:
        listing = find_cases(DataConfig(source="msd", root=datasets / "hippocampus"))
        assert len(listing.cases) == 208
        assert listing.class_names == ("background", "Anterior", "Posterior")
        assert all(case.label is not None and case.label.name == case.images[0].name for case in listing.cases)


def test_a_label_map_that_changes_named_classes_needs_the_names_after_it(tmp_path: Path) -> None:
    labels = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(labels))
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "x_0000.nii").touch()
    config = DataConfig(root=tmp_path, source="nnunet")
    assert find_cases(config.model_copy(update={"label_map": {7: 1}})).class_names == ("background", "a", "b")
    merged = config.model_copy(update={"label_map": {2: 1}})
    with pytest.raises(
        ValueError, match=r"source's classes \(background, a, b\) mean: list data\.class_names as they are"
    ):
        find_cases(merged)
    names = ("background", "ab")
    assert find_cases(merged.model_copy(update={"class_names": names})).class_names == names


class TestNnunet:
    LABEL_VALUES = {"background": 0, "front": 1, "back": 2}  # noqa: RUF012
    FACTS = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABEL_VALUES, "file_ending": ".nii.gz"}  # noqa: RUF012
    IMAGES = ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz")
    LABELS = ("labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    TEST = ("imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz")

    def test_channels_labels_and_test_cases(self, tmp_path: Path) -> None:
        others = ("imagesTr/a_0000.json", "imagesTr/.a_0000.nii.gz")
        listing = find_cases(nnunet(tmp_path, *self.IMAGES, *self.LABELS, *self.TEST, *others, facts=self.FACTS))
        assert [(case.id, case.split) for case in listing.cases] == [("a", None), ("b", None), ("c", "test")]
        assert listing.cases[0].images == (tmp_path / self.IMAGES[0], tmp_path / self.IMAGES[1])
        assert [case.label for case in listing.cases] == [*(tmp_path / name for name in self.LABELS), None]
        assert listing.class_names == ("background", "front", "back")
        assert listing.channel_names == ("T1", "T2")

    def test_images_alone_will_do(self, tmp_path: Path) -> None:
        listing = find_cases(nnunet(tmp_path, *self.IMAGES))
        assert [(case.id, case.label, len(case.images)) for case in listing.cases] == [("a", None, 2), ("b", None, 2)]
        assert (listing.class_names, listing.channel_names) == (None, None)

    def test_the_older_json_and_an_ignored_label(self, tmp_path: Path) -> None:
        facts = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "front"}}
        listing = find_cases(nnunet(tmp_path, *self.IMAGES, facts=facts))
        assert listing.class_names == ("background", "front")
        assert listing.channel_names == ("T1", "T2")
        facts = {**self.FACTS, "labels": {"background": 0, "front": 1, "ignore": 2}}
        assert find_cases(nnunet(tmp_path, *self.IMAGES, facts=facts)).class_names == ("background", "front")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (IMAGES[:3], "missing channels: b_0001; every case needs all 2 of them"),
            (IMAGES[1:], "missing channels: a_0000"),
            ((*IMAGES, "imagesTr/a_0002.nii.gz"), r"a_0002.nii.gz is channel 2, but dataset.json names 2 \(T1, T2\)"),
            (("imagesTr/a.nii.gz",), "expected names like case_0000.nii.gz, found a.nii.gz"),
            (("images/a.nii.gz",), "neither imagesTr nor imagesTs"),
            (("imagesTr/x.txt",), "no cases"),
        ],
    )
    def test_mistakes_in_the_names(self, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(nnunet(tmp_path, *names, facts=self.FACTS if any("Tr" in n for n in names) else None))

    @pytest.mark.parametrize(
        ("names", "facts", "message"),
        [
            (IMAGES[:3], None, "missing channels: b_0001"),
            (("imagesTr/a_0000.nii", "imagesTr/a_0000.nii.gz"), None, r"nii and a_0000\.nii\.gz are the same channel"),
            (("imagesTr/a.nii.gz",), {"training": []}, r"found a\.nii\.gz; set data\.source=msd"),
        ],
    )
    def test_mistakes_in_or_without_the_json(
        self, tmp_path: Path, names: tuple[str, ...], facts: dict[str, Any] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            find_cases(nnunet(tmp_path, *names, facts=facts))

    def test_unmatched_files_are_warned_of(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "mlx_volumes"):
            listing = find_cases(nnunet(tmp_path, *self.IMAGES, "labelsTr/a.nii.gz", "labelsTr/z.nii.gz"))
        unread = "not read, as of no case: 1 volumes (labelsTr/z.nii.gz)"
        assert caplog.messages == [f"{tmp_path}/imagesTr: no label for b", f"{tmp_path}: {unread}"]
        assert [case.label is None for case in listing.cases] == [False, True]


def test_images_to_predict(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "readme.txt"):
        (tmp_path / name).touch()
    found = [(case.id, len(case.images), case.label) for case in find_images(tmp_path)]
    assert found == [("a", 2, None), ("b", 2, None)]
    (tmp_path / "scan.nii").touch()
    assert [case.id for case in find_images(tmp_path)] == ["a_0000", "a_0001", "b_0000", "b_0001", "scan"]
    assert find_images(tmp_path / "scan.nii") == (Case("scan", (tmp_path / "scan.nii",)),)
    with pytest.raises(ValueError, match="none: no such file or folder"):
        find_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no volumes; found nothing"):
        find_images(tmp_path / "empty")


NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"training": True}, "'training' must be a list of cases, got bool"),
        ({"training": [True]}, r'training\[0\] must be {"image": path, "label": path}, got true'),
        ({"training": [{"image": ["a.nii"]}]}, r'training\[0\] must be {"image": path, "label": path}, got {"image":'),
        ({"training": [{"image": "a.nii", "label": True}]}, r"training\[0\] must be a path, got true"),
        ({"training": [{"image": "a.nii", "label": 5}]}, r"training\[0\] must be a path, got 5"),
        ({"training": [{"image": "a\0.nii"}]}, r'training\[0\]: "a\\u0000\.nii" is no path; correct it'),
        ({"training": [{"image": "\ud800.nii"}]}, r"training\[0\]: .* is no path; correct it"),
        ({"training": [{"image": "a" * 9999}]}, r'training\[0\]: "a{79} … is too long for a path; correct it'),
        ({"training": [], "labels": True}, '\'labels\' must be {"0": name, "1": name, ...}, got true'),
        ({"training": [], "labels": {"0": True, "1": "a"}}, "'labels' must be names, got true; put it in quotes"),
        (
            {"training": [], "labels": {"0": "a", "1": ["b"]}},
            r"'labels' must be names, got \[\"b\"\]; put",
        ),
        ({"training": [], "modality": {"0": None}}, "'modality' must be names, got null; put it in quotes"),
        ({"training": [], "test": {"image": "a.nii"}}, "'test' must be a list of cases, got dict"),
    ],
)
def test_wrong_types_in_a_decathlon_file(tmp_path: Path, facts: Any, said: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"^\S*/dataset\.json: {said}") as caught:
        find_msd(DataConfig(source="msd", root=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": True}, "'labels' must be an object {name: value}, got true"),
        ({"labels": {"background": 0, "liver": True}}, "'labels' must be {name: number}, got true; number the classes"),
        ({"labels": {"background": 0, "liver": None}}, "'labels' must be"),
        ({"channel_names": True}, "'channel_names' must be"),
        ({"channel_names": {"0": 1.5}}, "'channel_names' must be names, got 1.5; put it in quotes"),
        ({"file_ending": 5}, r"'file_ending' must be text such as \"\.nii\.gz\", got 5"),
        ({"file_ending": [".nii.gz"]}, "'file_ending' must be text"),
    ],
)
def test_wrong_types_in_an_nnunet_file(tmp_path: Path, change: Any, said: str) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({**NNUNET, **change}))
    with pytest.raises(ValueError, match=rf"^\S*/dataset\.json: {said}") as caught:
        find_nnunet(DataConfig(source="nnunet", root=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, r"not valid JSON \(lists or objects nested too deeply\); write it again"),
        ('{"training": ' + "9" * 5000 + "}", r"not valid JSON \(Exceeds the limit"),
        ("\xff\xfe{", "not UTF-8 text"),
        ("3", "expected a JSON object, got int"),
    ],
)
def test_a_dataset_json_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"^\S*/dataset\.json: {said}"):
        find_msd(DataConfig(source="msd", root=tmp_path))
