"""A block device that can lose power: a FUSE server of one file, `disk`, with a volatile write cache.

    volatile_disk.py MOUNTPOINT IMAGE

    ext4 ── loop device ── `disk` ─┬─ write: volatile sectors, in memory
                                   └─ flush: they go to IMAGE, which is what would survive

Commands come on stdin, one JSON object a line, each answered by a line on stdout:

    {"do": "cut", "path": P, "keep": "none" | "sectors" | "pages" | "prefix", "seed": N}
        writes to P what a power cut at this moment leaves: IMAGE and a part of what no flush covered
    {"do": "faults", "write_error": ERRNO, "pattern": TEXT, "sync_error": ERRNO, "sync_delay": SECONDS,
     "every": N, "count": N}
        writes that contain the text, or flushes, fail: every N-th, at most so many (0: no limit); flushes take so long
        answered with how many failed since the last such command
    {"do": "counts"}

io_uring is seen here, which strace and LD_PRELOAD do not see. Raw FUSE, so no library; needs root. Ends when it is
unmounted.
"""

import ctypes
import errno
import heapq
import json
import mmap
import os
import random
import select
import struct
import subprocess
import sys
import time

SECTOR = 512
PAGE = 4096
INIT, LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE = 26, 1, 2, 3, 4, 14, 15, 16, 17, 18
FSYNC, FLUSH, OPENDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, BATCH_FORGET = 20, 25, 27, 29, 34, 36, 38, 42
NO_FAULTS = {"write_error": 0, "pattern": "", "sync_error": 0, "sync_delay": 0, "every": 1, "count": 0}


class Disk:
    def __init__(self, mountpoint, image):
        self.image = image
        self.size = os.path.getsize(image)
        with open(image, "r+b") as file:
            self.durable = mmap.mmap(file.fileno(), self.size)
        self.volatile = {}
        self.faults = dict(NO_FAULTS)
        self.matched = self.failed = 0
        self.counts = {"writes": 0, "flushes": 0, "failed": 0}
        # Flushes that take their time: (when, request).
        self.slow = []
        self.fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"volatile", mountpoint.encode(), b"fuse", 6, options) != 0:
            sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")

    def serve(self):
        while True:
            wait = max(0.0, self.slow[0][0] - time.monotonic()) if self.slow else None
            ready, _, _ = select.select([self.fuse, sys.stdin], [], [], wait)
            while self.slow and self.slow[0][0] <= time.monotonic():
                self.flush(heapq.heappop(self.slow)[1])
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                print(json.dumps(self.command(json.loads(line))), flush=True)
            if self.fuse in ready:
                try:
                    request = os.read(self.fuse, (1 << 20) + PAGE)
                except OSError as error:
                    if error.errno == errno.ENODEV:
                        return
                    if error.errno in (errno.EINTR, errno.ENOENT):
                        continue
                    raise
                if not self.answer(request):
                    return

    def command(self, what):
        if what["do"] == "cut":
            return self.cut(what["path"], what["keep"], random.Random(what["seed"]))
        failed = self.failed
        if what["do"] == "faults":
            self.faults = {**NO_FAULTS, **{key: value for key, value in what.items() if key != "do"}}
            self.matched = self.failed = 0
            if not self.faults["sync_delay"]:
                while self.slow:
                    self.flush(heapq.heappop(self.slow)[1])
        return dict(self.counts, failed_now=failed, volatile=len(self.volatile))

    def cut(self, path, keep, draw):
        self.durable.flush()
        subprocess.run(["cp", "--sparse=always", self.image, path], check=True)
        sectors = sorted(self.volatile)
        if keep == "none":
            kept = []
        elif keep == "prefix":
            # In the order of their arrival, which a dict keeps.
            kept = list(self.volatile)[: draw.randrange(len(sectors) + 1)]
        elif keep == "pages":
            pages = {sector * SECTOR // PAGE: draw.random() < 0.5 for sector in sectors}
            kept = [sector for sector in sectors if pages[sector * SECTOR // PAGE]]
        else:
            kept = [sector for sector in sectors if draw.random() < 0.5]
        with open(path, "r+b") as file:
            for sector in kept:
                file.seek(sector * SECTOR)
                file.write(self.volatile[sector])
        return {"volatile": len(sectors), "kept": len(kept)}

    def fails(self, error):
        """Whether the fault with this error number strikes now."""
        if not error or (self.faults["count"] and self.failed >= self.faults["count"]):
            return False
        self.matched += 1
        if self.matched % self.faults["every"]:
            return False
        self.failed += 1
        self.counts["failed"] += 1
        return True

    def flush(self, unique):
        if self.fails(self.faults["sync_error"]):
            return self.reply(unique, error=self.faults["sync_error"])
        self.counts["flushes"] += 1
        for sector, content in self.volatile.items():
            self.durable[sector * SECTOR : (sector + 1) * SECTOR] = content
        self.volatile.clear()
        return self.reply(unique)

    def reply(self, unique, content=b"", error=0):
        try:
            os.write(self.fuse, struct.pack("<IiQ", 16 + len(content), -error, unique) + content)
        except OSError as failure:
            # Whoever asked has gone.
            if failure.errno != errno.ENOENT:
                raise

    def attributes(self, node):
        is_root = node == 1
        size = 0 if is_root else self.size
        mode = 0o40755 if is_root else 0o100644
        times = (0,) * 6
        return struct.pack(
            "<6Q10I", node, size, size // SECTOR, *times[:3], *times[:3], mode, 2 if is_root else 1, 0, 0, 0, PAGE, 0
        )

    def answer(self, request):
        length, kind, unique, node = struct.unpack_from("<IIQQ", request)
        body = request[40:length]
        if kind == INIT:
            _, _, read_ahead, _ = struct.unpack_from("<4I", body)
            # Big writes, and pages by the number: 32.
            flags = 1 << 5 | 1 << 22
            self.reply(unique, struct.pack("<4IHHIIHHI28x", 7, 31, read_ahead, flags, 16, 12, 131072, 1, 32, 0, 0))
        elif kind == LOOKUP:
            if body.rstrip(b"\0") == b"disk":
                self.reply(unique, struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + self.attributes(2))
            else:
                self.reply(unique, error=errno.ENOENT)
        elif kind in (GETATTR, SETATTR):
            self.reply(unique, struct.pack("<QII", 3600, 0, 0) + self.attributes(node))
        elif kind in (OPEN, OPENDIR):
            self.reply(unique, struct.pack("<QII", 1, 0, 0))
        elif kind == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            size = min(size, self.size - offset)
            content = bytearray(self.durable[offset : offset + size])
            for sector in range(offset // SECTOR, (offset + size) // SECTOR):
                if sector in self.volatile:
                    at = sector * SECTOR - offset
                    content[at : at + SECTOR] = self.volatile[sector]
            self.reply(unique, bytes(content))
        elif kind == WRITE:
            self.write(unique, body)
        elif kind == FSYNC:
            if self.faults["sync_delay"]:
                heapq.heappush(self.slow, (time.monotonic() + self.faults["sync_delay"], unique))
            else:
                self.flush(unique)
        elif kind in (RELEASE, FLUSH, RELEASEDIR, ACCESS):
            self.reply(unique)
        elif kind == STATFS:
            self.reply(unique, struct.pack("<5Q4I24x", self.size // PAGE, 0, 0, 1, 1, PAGE, 255, PAGE, 0))
        elif kind == DESTROY:
            self.reply(unique)
            return False
        elif kind not in (FORGET, BATCH_FORGET, INTERRUPT):
            self.reply(unique, error=errno.ENOSYS)
        return True

    def write(self, unique, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        content = body[40 : 40 + size]
        if self.faults["pattern"].encode() in content and self.fails(self.faults["write_error"]):
            self.reply(unique, error=self.faults["write_error"])
            return
        self.counts["writes"] += 1
        for at in range(0, size, SECTOR):
            self.volatile[(offset + at) // SECTOR] = content[at : at + SECTOR]
        self.reply(unique, struct.pack("<II", size, 0))


if __name__ == "__main__":
    Disk(sys.argv[1], sys.argv[2]).serve()
