"""The names of these networks' parameters in other libraries, whose weights fit them.

Convolution weights are (out, in, kD, kH, kW) there and (out, kD, kH, kW, in) here; transposed ones are
(in, out, kD, kH, kW) there. Everything else has the same shape.
"""

import re

_TORCHVISION = (
    (r"^head\.fc", "fc"),
    (r"^stem\.0\.conv", "stem.0"),
    (r"^stem\.0\.norm", "stem.1"),
    (r"^stem\.1\.conv", "stem.3"),
    (r"^stem\.1\.norm", "stem.4"),
    (r"\.shortcut\.", ".downsample."),
    (r"\.spatial\.conv", ".0.0"),
    (r"\.spatial\.norm", ".0.1"),
    (r"\.temporal\.conv", ".0.3"),
    (r"\.temporal\.norm", ".1"),
    (r"\.conv\.", ".0."),
    (r"\.norm\.", ".1."),
)
_MONAI = (
    (r"^head\.fc", "fc"),
    (r"\.shortcut\.conv", ".downsample.0"),
    (r"\.shortcut\.norm", ".downsample.1"),
    (r"conv(\d)\.conv", r"conv\1"),
    (r"conv(\d)\.norm", r"bn\1"),
)


def torchvision_name(name: str) -> str:
    """Return torchvision's name of a parameter of r3d_18, mc3_18 or r2plus1d_18.

    `layer2.0.shortcut.norm.bias` here is `layer2.0.downsample.1.bias` there.
    """
    return _rename(name, _TORCHVISION)


def monai_name(name: str) -> str:
    """Return MONAI's and MedicalNet's name of a parameter of resnet3d.

    `layer1.0.conv2.norm.bias` here is `layer1.0.bn2.bias` there.
    """
    return _rename(name, _MONAI)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
