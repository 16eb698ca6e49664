"""What this machine is, read from the operating system; nothing is measured here and torch is not needed."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cpu:
    """The processor. `flags` are the kernel's feature names, empty where the system does not tell."""

    name: str
    cores: int
    flags: frozenset[str]

    @property
    def has_fast_bf16(self) -> bool:
        """True where bf16 matrix products run in hardware (AVX512-BF16 or AMX on x86, BF16 on Arm)."""
        return bool(self.flags & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu() -> Cpu:
    """The processor this process may use (cores are those of its affinity mask)."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields = dict(
            (key.strip(), value.strip())
            for key, _, value in (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
        )
        name = fields.get("model name", name)
        flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Cpu(name, cores, flags)


@dataclass(frozen=True)
class Memory:
    """Host memory in bytes."""

    total: int
    available: int


def memory() -> Memory:
    """Host memory now. Zeros where the system does not tell."""
    info = Path("/proc/meminfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
        kib = {key: int(value.split()[0]) for key, value in fields.items()}
        return Memory(kib["MemTotal"] * 1024, kib.get("MemAvailable", kib["MemFree"]) * 1024)
    page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return Memory(page * total, 0)


def free_disk(path: Path) -> int:
    """Free bytes on the disk that holds `path` (or its nearest existing parent)."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
