"""Writes torch_outputs.json: what torchvision's and MONAI's networks make of the weights in seeded.py.

pip install torch==2.13.0 torchvision==0.28.0 monai==1.6.1
python -m tests.models.freeze_torch_outputs
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet, resnet10, resnet18, resnet34, resnet50
from torchvision.models import video

from tests.models import seeded

NUM_OUTPUTS = 5


@torch.no_grad()
def fill(model: torch.nn.Module) -> None:
    """Set all weights and statistics. A module known by two names, as DynUNet's are, goes by its first."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(seeded.array(name, tuple(value.shape))))


@torch.no_grad()
def logits(model: torch.nn.Module, channels: int, size: tuple[int, int, int]) -> list[Any]:
    fill(model)
    return model.eval()(torch.from_numpy(seeded.image(channels, size))).flatten().tolist()


def unet() -> dict[str, list[float]]:
    """Logits of nnU-Net's network, and the norm of each gradient of their mean square."""
    model = DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=NUM_OUTPUTS,
        kernel_size=[[3, 3, 3]] * 3,
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        upsample_kernel_size=[[1, 2, 2], [2, 2, 2]],
        filters=[4, 6, 8],
        norm_name=("instance", {"affine": True}),
    )
    fill(model)
    y = model(torch.from_numpy(seeded.image(1, (4, 12, 8))))
    y.square().mean().backward()
    parts = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": y.flatten().tolist(), **{name: [norm] for name, norm in parts.items()}}


def medicalnet(depth: int) -> torch.nn.Module:
    """MedicalNet's network (github.com/Tencent/MedicalNet, models/resnet.py), as MONAI's with other strides.

    Layers 3 and 4 have dilation 2 and 4 where MONAI's have stride 2.
    """
    make = {10: resnet10, 18: resnet18, 34: resnet34, 50: resnet50}[depth]
    model = make(
        n_input_channels=1,
        num_classes=NUM_OUTPUTS,
        conv1_t_stride=2,
        shortcut_type="A" if depth in (18, 34) else "B",
        bias_downsample=False,
    )
    for layer, dilation in ((model.layer3, 2), (model.layer4, 4)):
        for module in layer.modules():
            if isinstance(module, torch.nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
        if isinstance(layer[0].downsample, partial):
            layer[0].downsample.keywords["stride"] = 1
    return model


def main() -> None:
    plain = {"n_input_channels": 1, "num_classes": NUM_OUTPUTS}
    outputs: dict[str, Any] = {
        name: logits(getattr(video, name)(num_classes=NUM_OUTPUTS), 3, (6, 20, 24))
        for name in ("r3d_18", "mc3_18", "r2plus1d_18")
    }
    outputs["resnet18"] = logits(resnet18(**plain), 1, (18, 20, 24))
    outputs["resnet18, strided stem, no pooling"] = logits(
        resnet18(**plain, conv1_t_size=(3, 5, 7), conv1_t_stride=(1, 2, 2), no_max_pool=True), 1, (18, 20, 24)
    )
    outputs["resnet10, shortcut A"] = logits(resnet10(**plain, shortcut_type="A"), 1, (18, 20, 24))
    outputs["resnet50"] = logits(resnet50(**plain, bias_downsample=False), 1, (18, 20, 24))
    outputs |= {f"medicalnet_resnet{depth}": logits(medicalnet(depth), 1, (34, 36, 40)) for depth in (10, 18, 34, 50)}
    outputs["unet"] = unet()
    path = Path(__file__).with_name("torch_outputs.json")
    path.write_text(json.dumps(outputs, indent=0) + "\n")


if __name__ == "__main__":
    main()
