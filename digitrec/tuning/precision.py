"""The choice of a precision where `--precision auto` leaves it open."""

import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from digitrec.errors import DamagedError, InputError
from digitrec.request import Request
from digitrec.space.hyperparameters import Precision
from digitrec.store.spec import read_spec

CPUINFO = Path("/proc/cpuinfo")
IN_HARDWARE = r"^flags\s*:.*\b(avx512_bf16|amx_bf16)\b"  # x86; Linux names the flags so


def decide_precision(request: Request, console: Console) -> Request:
    """Return the request with the precision that `auto` stands for, and print why.

    It is that of the study, if the study has begun. Otherwise it is bf16 where this machine's
    processor, or its GPU if the stacks get GPUs, multiplies bfloat16 in hardware.
    """
    if request.precision != "auto":
        return request
    if chosen := _of_study(request):
        why = "as in the study so far"
    elif request.gpus_per_stack:
        chosen, why = _of_hardware("GPU", _gpu_has_bfloat16())
    else:
        chosen, why = _of_hardware("processor", processor_has_bfloat16())
    console.print(f"precision  {chosen}: {why}", highlight=False, soft_wrap=True)
    return replace(request, precision=chosen)


def processor_has_bfloat16() -> bool:
    """Return whether this machine's processor multiplies bfloat16; False where it is not known.

    It does not import torch, which takes a second.
    """
    cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
    return re.search(IN_HARDWARE, cpuinfo, re.MULTILINE) is not None


def _gpu_has_bfloat16() -> bool:
    import torch

    from digitrec.engine.products import bfloat16_is_fast

    return torch.cuda.is_available() and bfloat16_is_fast(torch.device("cuda"))


def _of_hardware(what: str, has: bool) -> tuple[Precision, str]:
    if has:
        return "bf16", f"this machine's {what} multiplies bfloat16 in hardware"
    return "float32", f"no {what} that multiplies bfloat16 in hardware is known here"


def _of_study(request: Request) -> Precision | None:
    try:
        spec = read_spec(request.directory)
    except (InputError, DamagedError):
        return None
    return "bf16" if spec.precision == "bf16" else "float32"
