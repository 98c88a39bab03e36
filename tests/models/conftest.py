from collections.abc import Iterator

import pytest

import ops


@pytest.fixture(params=["mlx", "onednn"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with MLX's operators, and again with the CPU's fast ones where they load."""
    try:
        yield ops.choose(request.param)
    except OSError as error:
        pytest.skip(str(error))
    finally:
        ops.choose("auto")


@pytest.fixture
def mlx_ops() -> Iterator[None]:
    """Run the test with MLX's own operators, the only ones that `mx.compile` can trace."""
    ops.choose("mlx")
    yield
    ops.choose("auto")
