"""PNG files as pixels.

Letters: S pixels, the side of a square picture.
"""

import io
import struct

import numpy as np
from numpy.typing import NDArray

from digitrec.data.blocks import check_size
from digitrec.errors import InputError

_START = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8s4x4sIIBB")  # start, name of the first chunk, width, height, depth, kind
_GREY = 0
_KINDS = {_GREY: "grey", 2: "colour", 3: "palette", 4: "grey with transparency"}
_KINDS |= {6: "colour with transparency"}

# Pillow's errors for a damaged file, beside those of the classes above them.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode_png(name: str, content: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a PNG file, (S, S).

    Colours are refused, not converted: there are several ways to turn them into a grey.

    Args:
        name: of the file, for messages.
        content: of the file.

    Raises:
        InputError: it is not a square 8-bit grey PNG file, or it is damaged.
    """
    _check_header(name, content)
    from PIL import Image  # takes 0.05 s; other kinds of data do not need it

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.array(picture, dtype=np.uint8)
    except _UNREADABLE as error:
        raise InputError(f"{name}: damaged or cut short; save the picture again") from error


def _check_header(name: str, content: bytes) -> None:
    if not content.startswith(_START):
        raise InputError(f"{name}: not a PNG file")
    if len(content) < _HEADER.size:
        raise InputError(f"{name}: damaged or cut short; save the picture again")
    _, chunk, width, height, depth, kind = _HEADER.unpack_from(content)
    if chunk != b"IHDR":
        raise InputError(f"{name}: damaged or cut short; save the picture again")
    check_size(name, width, height)
    if (depth, kind) != (8, _GREY):
        raise InputError(
            f"{name}: {depth}-bit {_KINDS.get(kind, 'unknown')}; expected 8-bit grey, which "
            "Pillow's Image.convert('L') makes"
        )
