"""The `model` section: what a network's arguments promise. Each network's own lie beside it, in models/."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

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


class Convolution(NamedTuple):
    """A convolution as one sample meets it: channels in and out, kernel and size of its result, (D, H, W)."""

    inputs: int
    outputs: int
    kernel: Size
    size: Size

    @property
    def voxels(self) -> int:
        """Voxels of the result."""
        return math.prod(self.size)

    @property
    def unfolded(self) -> int:
        """Elements of the input, unfolded for a product; a 1×1×1 kernel is a product as it is."""
        taps = math.prod(self.kernel)
        return self.voxels * taps * self.inputs if taps > 1 else 0


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
        """Return what each axis of a patch (D, H, W) must be divisible by."""
        return 1, 1, 1

    def fewest_tensors(self) -> int:
        """Return the fewest tensors that the weights have: a pack's config may ask for no more layers than it holds."""
        return 0

    @classmethod
    def propose(cls, size: Size, num_train: int) -> dict[str, Any]:
        """Return the arguments to train with on `num_train` cases of this size (D, H, W); defaults are left out."""
        return {}

    def list_convolutions(self, size: Size, in_channels: int = 1) -> Iterable[Convolution]:
        """Return the convolutions that one sample (D, H, W) passes, heads and transposed ones left out.

        Estimates of memory and weights follow from them; none counts the input and the output only.
        """
        return ()

    def largest_activation(self, size: Size) -> int:
        """Return the elements of the largest array that a convolution of one sample (D, H, W) takes or gives."""
        return max((conv.voxels * max(conv.inputs, conv.outputs) for conv in self.list_convolutions(size)), default=0)

    def largest_unfolded(self, size: Size) -> int:
        """Return the elements of the largest input that MLX's own convolution unfolds on a CPU."""
        return max((conv.unfolded for conv in self.list_convolutions(size)), default=0)


class ModelConfig(Section):
    """The network and its arguments; `make_config` has one of these for each kind of arguments."""

    name: str
    args: NetworkArgs


def shrink(size: Size, stride: Size) -> Size:
    """Return the size after a convolution or pooling of the stride that pads."""
    return tuple(-(-n // step) for n, step in zip(size, stride, strict=True))
