"""``lab doctor``: what this machine and this installation lack for training."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.machine.machine import Machine

PACKAGE = "mlx-memory-lab"
PYTHONS = ((3, 11), (3, 14))
FEW_GB, TOO_FEW_GB = 10.0, 1.0  # free on a disk: a 1 B model with two checkpoints; no run at all
SWAPPING_GB = 1.0


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        state: ``ok``, ``warning`` or ``wrong``.
        remedy: what mends it, or what else there is; empty where there is nothing to do.
    """

    name: str
    state: str
    text: str
    remedy: str = ""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    parser.add_argument("--json", action="store_true", help="for another program")


def run(arguments: Namespace) -> int:
    """Look, without a network; return 1 where something is wrong."""
    findings = [finding for check in CHECKS for finding in _safely(check)]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(_lines(findings)))
    return int(any(finding.state == "wrong" for finding in findings))


def _lines(findings: list[Finding]) -> Iterator[str]:
    for found in findings:
        yield f"{found.state:<8} {found.name:<9} {found.text}"
        if found.remedy:
            yield f"{'':<18} {found.remedy}"


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails is a finding."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  whatever is broken here is what is looked for
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield Finding(check.__name__.strip("_"), "wrong", text)


def _python() -> Iterator[Finding]:
    least, most = PYTHONS
    fits = least <= sys.version_info[:2] <= most
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    remedy = f"needs a Python from {_dotted(least)} to {_dotted(most)}"
    yield Finding("python", "ok" if fits else "wrong", text, "" if fits else remedy)


def _versions() -> Iterator[Finding]:
    """Of the packages that this one pins, since it relies on what moves between their releases."""
    for requirement in requires(PACKAGE) or ():
        if pinned := re.fullmatch(r"(mlx|mlx-lm)==([\w.]+)", requirement):
            yield _pinned(*pinned.groups())


def _pinned(name: str, wanted: str) -> Finding:
    found, remedy = _installed(name), f"pip install '{name}=={wanted}'"
    if found is None:
        return Finding(name, "wrong", "is not installed", remedy)
    if found != wanted:
        return Finding(name, "warning", f"{found}; the lab is tested with {wanted}", remedy)
    return Finding(name, "ok", found)


def _device() -> Iterator[Finding]:
    from lab.machine.probe import ProbeError, probe_machine

    try:
        machine = probe_machine()
    except ProbeError as error:
        yield Finding("device", "wrong", str(error), "make setup, or reinstall mlx")
        return
    state, remedy = "ok", ""
    if machine.backend == "cpu" and Path("/proc/driver/nvidia/version").exists():
        state, remedy = "warning", f"there is an NVIDIA GPU: pip install '{PACKAGE}[cuda]'"
    elif machine.backend == "cpu" and sys.platform == "darwin":
        state, remedy = "warning", "MLX finds no Metal: use a Python for arm64, on the Mac itself"
    cores = f"{machine.cores} core{'s' * (machine.cores != 1)}"
    yield Finding("device", state, f"{machine.backend}, {machine.device_name}, {cores}", remedy)


def _machine() -> Machine | None:
    """None where MLX does not load, which is told already."""
    from lab.machine.probe import ProbeError, probe_machine

    with suppress(ProbeError):
        return probe_machine()
    return None


def _blas() -> Iterator[Finding]:
    from lab.machine.blas import BLAS_HINT, preload_blas

    machine = _machine()
    if machine is None or machine.backend != "cpu":
        return
    if sys.platform == "darwin":
        yield Finding("blas", "ok", "Accelerate")
    elif blas := preload_blas():
        yield Finding("blas", "ok", blas)
    else:
        slow, _, remedy = BLAS_HINT.partition(": ")
        yield Finding("blas", "warning", slow, remedy)


def _memory() -> Iterator[Finding]:
    """Memory, the budget that ``auto`` takes of it, and what others leave."""
    from lab.compose.profiles import detected_profile
    from lab.config.units import GB
    from lab.machine.hardware import USABLE_SHARE, profile_sizes
    from lab.machine.process import available_and_swap_bytes

    machine = _machine()
    if machine is None:
        return
    profile = detected_profile(machine)
    fits = profile_sizes()[profile] * USABLE_SHARE <= machine.memory_gb
    text = f"{machine.memory_gb:.1f} GB, budget {machine.budget_gb:.1f} GB, profile {profile}"
    remedy = "" if fits else "is less than the least profile asks for: take a small model"
    yield Finding("memory", "ok" if fits else "warning", text, remedy)
    available, swap = available_and_swap_bytes()
    if available is not None and machine.backend != "cuda":
        room, budget = available / GB, machine.budget_gb
        remedy = f"close other programs, or memory.budget_gb={room:.1f}" if room < budget else ""
        state = "warning" if remedy else "ok"
        yield Finding("available", state, f"{room:.1f} GB that no program holds", remedy)
    if swap is not None:
        state = "warning" if swap / GB > SWAPPING_GB else "ok"
        remedy = "memory curves mislead where the machine swaps: close other programs"
        text = f"{swap / GB:.1f} GB in use"
        yield Finding("swap", state, text, remedy if state == "warning" else "")


def _wired() -> Iterator[Finding]:
    """The limit of memory that a Mac's GPU may hold; 0 leaves it to the system."""
    if sys.platform != "darwin":
        return
    from lab.machine.macos import sysctl

    limit = int.from_bytes(sysctl("iogpu.wired_limit_mb", 4), sys.byteorder)
    text = f"iogpu.wired_limit_mb={limit}" if limit else "the system's own limit"
    yield Finding("wired", "ok", text)


def _disks() -> Iterator[Finding]:
    from lab.catalog.names import OUTPUTS
    from lab.supervise.worker_process import cache_folder

    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    folders = {"outputs": OUTPUTS, "cache": cache_folder(), "hub cache": Path(hub)}
    for name, folder in folders.items():
        yield _disk(name, folder)


def _disk(name: str, folder: Path) -> Finding:
    from lab.config.units import GB

    nearest = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        remedy = "take another working folder" if name == "outputs" else "set LAB_CACHE_DIR"
        remedy = "set HF_HOME" if name == "hub cache" else remedy
        return Finding(name, "wrong", f"{nearest} is no folder that can be written", remedy)
    free = shutil.disk_usage(nearest).free / GB
    text = f"{free:.1f} GB free for {folder}"
    if free >= FEW_GB:
        return Finding(name, "ok", text)
    return Finding(name, "wrong" if free < TOO_FEW_GB else "warning", text, "lab clean --yes")


def _wandb() -> Iterator[Finding]:
    from lab.tracking.wandb import has_key

    mode = os.environ.get("WANDB_MODE", "")
    if mode.lower() not in ("", "offline", "online", "dryrun", "disabled"):
        remedy = "unset it, or offline, online, disabled"
        yield Finding("wandb", "wrong", f"WANDB_MODE={mode} is no mode", remedy)
        return
    text = f"{_installed('wandb')}, {mode or 'offline'} by default"
    if mode not in ("", "online"):
        yield Finding("wandb", "ok", text)
    elif has_key():
        yield Finding("wandb", "ok", f"{text}, logged in")
    else:
        remedy = "for tracker=wandb_online: wandb login"
        yield Finding("wandb", "wrong" if mode else "ok", f"{text}, not logged in", remedy)


def _extras() -> Iterator[Finding]:
    """Optional packages; none has to be there."""
    needed: dict[str, list[str]] = {}
    for requirement in requires(PACKAGE) or ():
        found = re.fullmatch(r"([\w-]+)(?:\[.*?\])?[^;]*; extra == ['\"]([\w-]+)['\"]", requirement)
        if found and found[2] not in ("dev", "editable", "cuda"):
            needed.setdefault(found[2], []).append(found[1])
    there = {name for name, packages in needed.items() if all(map(_installed, packages))}
    text = ", ".join(sorted(there)) or "none"
    missing = ",".join(sorted(needed.keys() - there))
    remedy = f"if you want them: pip install '{PACKAGE}[{missing}]'" if missing else ""
    yield Finding("extras", "ok", text, remedy)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _dotted(pair: tuple[int, int]) -> str:
    return ".".join(map(str, pair))


CHECKS = (_python, _versions, _device, _blas, _memory, _wired, _disks, _wandb, _extras)
