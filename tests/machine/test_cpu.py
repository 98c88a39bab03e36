"""The CPU's name and instruction sets, from what several machines say of themselves."""

import platform

import pytest

from machine import cpu

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
GRACE = "Architecture:  aarch64\nVendor ID:     ARM\n  Model name:  Neoverse-V2\n"
SPARK = "Vendor ID: ARM\n  Model name: Cortex-X925\n  Flags: fp\n  Model name: Cortex-A725\n"


@pytest.mark.parametrize(
    ("cpuinfo", "lscpu", "name", "features"),
    [
        (X86, None, "AMD EPYC 9B14", ["avx2", "avx512_bf16", "avx512f"]),
        (ARM, GRACE, "Neoverse-V2", ["asimd", "bf16", "i8mm", "sve"]),
        (ARM, SPARK, "Cortex-X925 + Cortex-A725", ["asimd", "bf16", "i8mm", "sve"]),
        (ARM, None, "Arm, implementer 0x41, part 0xd4f", ["asimd", "bf16", "i8mm", "sve"]),
        ("", None, None, None),
    ],
)
def test_linux(monkeypatch, cpuinfo, lscpu, name, features) -> None:
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: cpuinfo)
    monkeypatch.setattr(cpu, "_output", lambda *command: lscpu)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert cpu.cpu_name() == name
    assert cpu.cpu_features() == features


def test_macos(monkeypatch) -> None:
    said = {("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M3 Max"}
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.setattr(cpu, "_cpuinfo", lambda: "")
    monkeypatch.setattr(cpu, "_output", lambda *command: said[command])
    assert cpu.cpu_name() == "Apple M3 Max"
    assert cpu.cpu_features() is None


def test_programs_that_are_missing_or_fail_tell_nothing() -> None:
    assert cpu._output("no-such-program-here") is None
    assert cpu._output("false") is None
    assert cpu._output("echo", "this") == "this"
