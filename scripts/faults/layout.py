"""Where entries lie in segment files (layout: src/wal/entry.rs, src/wal/segment.rs), for damaging them."""

import os
import re
import struct

HEADER_BYTES = 48
PAGE = 4096
MAGIC = b"tkE1"
GROUP, PAD = 1, 2
IDS = re.compile(rb"\x0a\x10(.{16})\x12\x08(.{8})", re.DOTALL)


class Entry:
    """An entry's place in its file, and the spans it holds."""

    def __init__(self, path, start, end, kind, spans):
        self.path, self.start, self.end, self.kind, self.spans = path, start, end, kind, spans


def segments(directory):
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".seg")]


def entries(path):
    """Of one segment file, in order: those that name this segment and their own position."""
    with open(path, "rb") as file:
        content = file.read()
    segment = int(os.path.basename(path).removesuffix(".seg"), 16)
    (base,) = struct.unpack_from("<Q", content, 32)
    at = PAGE
    found = []
    while at + HEADER_BYTES <= len(content):
        if content[at : at + 4] != MAGIC:
            break
        kind, length = content[at + 5], struct.unpack_from("<I", content, at + 8)[0]
        its_segment, position = struct.unpack_from("<QQ", content, at + 16)
        if its_segment != segment or position != base + at - PAGE:
            break
        end = at + HEADER_BYTES + (0 if kind == PAD else length)
        payload = b"" if kind == PAD else content[at + HEADER_BYTES : end]
        found.append(Entry(path, at, end, kind, {trace + span for trace, span in IDS.findall(payload)}))
        at += HEADER_BYTES + length
        at = (at + 63) // 64 * 64
    return found
