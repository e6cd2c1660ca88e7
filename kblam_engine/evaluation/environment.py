"""What a measurement was made on: versions, hardware, source revision, and the memory it took."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kblam_engine.freed_memory import give_back_freed
from kblam_engine.threads import usable_cores

_PACKAGES = (
    "kblam-engine",
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "safetensors",
    "gguf",  # how the embedded model's weights were read
    "numpy",
    "bm25s",
    "rouge-score",
    "bert-score",
    "accelerate",
)
_MB = 1024 * 1024


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages a result depends on; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the processor, its cores, the threads torch uses, the memory, and the GPU if there is one."""
    about: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(usable_cores()),
        "memory_gb": _memory_gb(),
    }
    # Asked of torch only where a run has loaded it: describing the machine must not cost seconds.
    torch = sys.modules.get("torch")
    if torch is not None:
        about["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            about["gpu"] = torch.cuda.get_device_name()
    return about


def commit() -> str | None:
    """Return the git revision of the source tree, with "+changes" if it has any; None outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    if not (
        folder.parent / ".git"
    ).exists():  # an installed copy inside another project's checkout is not ours
        return None
    revision = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not revision:
        return None
    return revision + (
        "+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else ""
    )


def describe(seed: int) -> dict[str, Any]:
    """Return what is needed to repeat a run: command, seed, versions, hardware, commit."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": seed,
        "versions": versions(),
        "hardware": hardware(),
        "commit": commit(),
    }


def reset_peak_rss() -> None:
    """Forget the peak of resident memory so far, where the system can (Linux); elsewhere peaks only grow."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_rss_mb() -> float | None:
    """Return the peak resident memory of this process in MiB, since the last reset where there is one."""
    known = _status_bytes("VmHWM")
    if known is not None:
        return round(known / _MB, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (_MB if sys.platform == "darwin" else 1024), 1)


def reset_gpu_peak() -> None:
    """Forget the peak of torch's memory on the GPU so far, where there is one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def gpu_peak_mb() -> float | None:
    """Return the peak of torch's memory on the current GPU in MiB, since the last reset; None where it is not used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return round(float(torch.cuda.max_memory_allocated()) / _MB, 1)


def anonymous_bytes() -> int | None:
    """Return the resident memory of this process that no file backs (RssAnon, Linux); None elsewhere.

    Mapped embeddings and indexes are not in it. What has been freed is given back first, so that two calls can be subtracted.
    """
    give_back_freed()
    return _status_bytes("RssAnon")


def _status_bytes(field: str) -> int | None:
    """Return a size that Linux tells of this process; None elsewhere."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MB / 1024, 1)
    except (AttributeError, OSError, ValueError):
        return None
