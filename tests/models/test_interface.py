"""What networks' arguments promise of the networks, for each that is registered."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from models import MODELS, build_model


@pytest.mark.slow  # networks of 18 layers and more
@pytest.mark.parametrize("name", MODELS)
def test_arguments_tell_of_the_network(name: str) -> None:
    args = MODELS[name].args()
    model = build_model(name, args, 1, 3).eval()
    assert len(tree_flatten(model.parameters())) >= args.fewest_tensors()
    assert hasattr(model, "features") == args.has_features
    if args.has_features:
        x = mx.zeros((1, 8, 16, 16, 1))
        assert mx.array_equal(model.head(model.features(x)), model(x))
