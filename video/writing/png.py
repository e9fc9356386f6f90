"""Text in a PNG file, from which ComfyUI's page restores a graph."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

FIRST_PICTURE = "00001.png"
"""Of a folder of pictures; it holds the texts of all."""

AFTER_HEADER = 33
"""Bytes of the signature and of the first chunk, which has to be IHDR."""


def add_texts(path: Path, texts: dict[str, str]) -> None:
    """As iTXt chunks in UTF-8. Writes the file anew."""
    if not texts:
        return
    content = path.read_bytes()
    chunks = b"".join(_chunk(b"iTXt", _named(name, text)) for name, text in texts.items())
    path.write_bytes(content[:AFTER_HEADER] + chunks + content[AFTER_HEADER:])


def _named(name: str, text: str) -> bytes:
    """A keyword has 1 to 79 characters of Latin-1."""
    return name.encode("latin-1", "replace")[:79] + b"\0\0\0\0\0" + text.encode(errors="replace")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
