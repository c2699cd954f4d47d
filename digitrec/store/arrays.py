"""Files of named arrays that are checked when they are read.

The format is safetensors, which holds arrays and text; reading it cannot execute code. The array
`about` is JSON as UTF-8 bytes with the kind of the file, its format and a digest of everything
else, so truncated, edited and foreign files are rejected.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from digitrec.errors import DamagedError
from digitrec.store.folder import NOT_OURS

FORMAT = 2
SUFFIX = ".safetensors"
Arrays = dict[str, NDArray[Any]]

_UNREADABLE = (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError)


def pack(kind: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the content of a file that holds these values and arrays.

    Args:
        kind: of the file.
        about: JSON values.
        arrays: none of them named `about`.
    """
    arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    text = {"kind": kind, "format": FORMAT, **about}
    text["digest"] = _digest(text, arrays)
    encoded = np.frombuffer(json.dumps(text).encode(), np.uint8)
    return save({**arrays, "about": encoded})


def unpack(kind: str, content: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return `about` and the arrays of a file that `pack` made.

    Raises:
        DamagedError: it is damaged, of another kind, or written by another version of digitrec.
    """
    try:
        arrays: Arrays = load(content)
        about = json.loads(arrays.pop("about").tobytes())
        found, version, digest = about.pop("kind"), about["format"], about.pop("digest")
        whole = digest == _digest({"kind": found, **about}, arrays)
    except _UNREADABLE as error:
        raise DamagedError(NOT_OURS) from error
    if found != kind:
        raise DamagedError(f"it holds {found}, not {kind}")
    if version != FORMAT:
        raise DamagedError(f"it has format {version}; this digitrec reads {FORMAT}")
    if not whole:
        raise DamagedError("its content has changed since it was written")
    return about, arrays


def _digest(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    content = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        values = arrays[name]
        content.update(f"{name} {values.dtype.str} {values.shape}".encode())
        content.update(values.data if values.size else b"")
    return content.hexdigest()
