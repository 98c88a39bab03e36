from pathlib import Path

import numpy as np
import pytest

from configs.schema.data import DataConfig
from data.files.errors import FileProblem
from data.layouts.cases import Case
from data.layouts.medmnist import read_member
from data.layouts.registry import find_labelled


def write(path: Path, **arrays: np.ndarray) -> DataConfig:
    np.savez(path / "setmnist3d.npz", **arrays)
    return DataConfig(root=path, source="medmnist")


def volumes(count: int, *shape: int) -> np.ndarray:
    return np.zeros((count, *(shape or (4, 4, 5))), np.uint8)


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None]


TRAIN = {"train_images": volumes(2), "train_labels": labels(0, 1)}


def test_rows_are_cases(tmp_path: Path) -> None:
    train = {"train_images": volumes(11), "train_labels": labels(*[0, 1] * 5, 2)}
    config = write(tmp_path, **train, test_images=volumes(1), test_labels=labels(1))
    listing = find_labelled(config)
    assert listing.class_names == ("0", "1", "2")
    assert len(listing.cases) == 12
    path = tmp_path / "setmnist3d.npz"
    assert listing.cases[0] == Case("test_0", (path,), 1, "test", None, ("test_images", 0))
    assert listing.cases[-1] == Case("train_10", (path,), 2, "train", None, ("train_images", 10))
    named = find_labelled(config.model_copy(update={"class_names": ("x", "y", "z")}))
    assert named.class_names == ("x", "y", "z")


def test_several_columns_are_classes_that_may_coincide_and_names_suffice(tmp_path: Path) -> None:
    config = write(tmp_path, val_images=volumes(2), val_labels=np.array([[1, 0, 1], [0, 0, 0]]))
    listing = find_labelled(config)
    assert (listing.multi_label, listing.class_names) == (True, ("0", "1", "2"))
    assert [case.label for case in listing.cases] == [(1, 0, 1), (0, 0, 0)]
    config = write(tmp_path, train_images=volumes(3), train_labels=labels(0, 1, 2))
    with pytest.raises(ValueError, match=r"data\.class_names=\['a', 'b'\]: .* has classes up to 2"):
        find_labelled(config.model_copy(update={"class_names": ("a", "b")}))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": volumes(2)}, "no train_images, val_images or test_images; it holds images"),
        ({"train_images": volumes(2)}, "train_images without train_labels"),
        ({**TRAIN, "train_labels": labels(0)}, r"train_labels of uint8 \(1, 1\), .* for 2 cases"),
        (
            {**TRAIN, "train_images": volumes(2, 28, 28, 3)},
            r"of \(2, 28, 28, 3\), expected \(cases, D, H, W\): a 3-D set",
        ),
        ({**TRAIN, "train_images": volumes(2, 28, 28)}, r"images of \(2, 28, 28\), expected"),
        ({**TRAIN, "val_images": volumes(1, 9, 9, 9), "val_labels": labels(0)}, "the splits differ in shape"),
        ({**TRAIN, "train_images": volumes(2).astype(np.complex64)}, "images of complex64, expected real numbers"),
        ({**TRAIN, "train_labels": np.array([[2, 0], [0, 1]])}, "2 columns, which must be 0 or 1; got 2"),
    ],
)
def test_mistakes(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_labelled(write(tmp_path, **arrays))


def test_not_one_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected exactly one \.npz in it, found nothing"):
        find_labelled(DataConfig(root=tmp_path, source="medmnist"))
    (tmp_path / "a.npz").write_text("nothing")
    with pytest.raises(FileProblem, match=r"a\.npz: damaged \.npz archive"):
        find_labelled(DataConfig(root=tmp_path, source="medmnist"))


def test_damaged_voxels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 8)).astype(np.uint8)
    write(tmp_path, train_images=noise, train_labels=labels(0, 1, 0, 1))
    path = tmp_path / "setmnist3d.npz"
    np.testing.assert_array_equal(read_member(path, "train_images"), noise)
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(FileProblem, match=r"setmnist3d\.npz: damaged \.npz archive"):
        read_member(path, "train_images")
