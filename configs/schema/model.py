"""The `model` section: what a network's arguments promise. Each network's own lie beside it, in models/."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.schema.types import Section

MAX_ELEMENTS = 2**31 - 1  # of an array, which MLX's kernels on a GPU index with 32 bits
Size = tuple[int, ...]  # voxels (D, H, W)
DropoutKind = Literal["none", "element", "channel"]
# In a block: before_norm as nnU-Net, after_norm as MONAI. With a residual before the sum, in the branch, always.
DropoutPosition = Literal["after_activation", "before_norm", "after_norm"]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]


class DropoutArgs(Section):
    """A network's dropout, as `models.layers.dropout.make_dropout` takes it; the network names its places."""

    kind: DropoutKind = "channel"
    rate: DropoutRate = 0.1
    places: tuple[str, ...] = ()
    position: DropoutPosition = "after_activation"


class NetworkArgs(Section):
    """Arguments of a network. What other sections and training ask of it are the attributes here."""

    segments: ClassVar[bool] = False  # whether each voxel has logits, (N, D, H, W, K); else each case, (N, K)
    has_features: ClassVar[bool] = False  # whether the network is head(features(x)), as Grad-CAM takes it apart

    @property
    def downsamplings(self) -> int:
        """How many levels lie below the finest, for messages about `total_stride`."""
        return 0

    @property
    def supervises_levels(self) -> bool:
        """Whether training gets logits of several levels, finest first."""
        return False

    def total_stride(self) -> tuple[int, int, int]:
        """What each axis of a patch (D, H, W) must be divisible by."""
        return 1, 1, 1

    def fewest_tensors(self) -> int:
        """How many tensors the weights have at least, so that a pack's config asks for no more layers than it holds."""
        return 0

    def largest_activation(self, size: Size) -> int:
        """Elements of the largest array that one sample (D, H, W) has; 0 counts the input and the output alone."""
        return 0

    def largest_unfolded(self, size: Size) -> int:
        """Elements of the largest input that a convolution's plain form unfolds on a CPU; 0 where none is known."""
        return 0


class ModelConfig(Section):
    """The network and its arguments; `make_config` has one of these for each kind of arguments."""

    name: str
    args: NetworkArgs


def shrink(size: Size, stride: Size) -> Size:
    """The size after a convolution or pooling of the stride that pads."""
    return tuple(-(-n // step) for n, step in zip(size, stride, strict=True))
