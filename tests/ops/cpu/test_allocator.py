import os
import platform
import subprocess
import sys

import pytest

from ops.cpu import allocator

FAULTS = """
import resource, sys
from ops.cpu import allocator
assert allocator.keep_pages() == (sys.argv[1] == "keep")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(5):
    before = faults()
    bytearray(b"x") * (40 << 20)  # 10240 pages, and more than the 32 MB up to which glibc learns to keep them
print(faults() - before)
"""


def count_faults(setting):
    environment = {**os.environ, "MLX_VOLUMES_ALLOCATOR": "" if setting == "keep" else "default"}
    run = [sys.executable, "-c", FAULTS, setting]
    return int(subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_freed_pages_stay_unless_it_is_turned_off():
    assert count_faults("keep") < 1000
    assert count_faults("default") > 5000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_pages()
