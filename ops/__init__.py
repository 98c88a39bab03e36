"""The networks' operators in plain MLX, one per file. `ops/cpu` holds their form for a Linux x86-64 CPU.

`device` chooses what computes, `backend` which form of the operators runs there, `memory` how much it may take.
Importing this loads nothing native.
"""

from ops.adamw import adamw, global_norm, move_towards
from ops.backend import active, choose
from ops.class_sums import ClassSums, RegionSums, class_sums, region_sums
from ops.concat import concat_channels
from ops.conv3d import conv3d
from ops.conv_transpose3d import conv_transpose3d
from ops.device import obey_environment
from ops.norm_act_dropout import norm_act_dropout
from ops.pooling import avg_pool3d, max_pool3d
from ops.upsample import upsample3d

obey_environment()  # before any array is made

__all__ = [
    "ClassSums",
    "RegionSums",
    "active",
    "adamw",
    "avg_pool3d",
    "choose",
    "class_sums",
    "concat_channels",
    "conv3d",
    "conv_transpose3d",
    "global_norm",
    "max_pool3d",
    "move_towards",
    "norm_act_dropout",
    "region_sums",
    "upsample3d",
]
