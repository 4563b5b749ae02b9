#!/usr/bin/env python3
"""No reply comes before the sync that covers it: tailkeep on a disk whose every sync takes a second.

    volatile_sync.py [BINARY] [--requests 12] [--set key=value]

The disk is tools/volatile_disk.py, found through TAILKEEP_TEST_TOOLS or beside the project in ../shared/tools; a
loop device and an ext4 lie on it. First requests are answered by a quick disk, which shows that they are
answered at all; then a sync takes 1 s and every reply must take 0.9 s or longer. Needs root, losetup, mkfs.ext4
and mount; without them it skips with a word. Everything that was mounted is unmounted. Exit code 1 on a violation.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time

import otlp_encode
from tailkeep_process import PROJECT, NotReady, Tailkeep

SYNC_SECONDS = 1.0
REPLY_SECONDS_MIN = 0.9
# One core's log and kept log, a segment each, must fit the automatic bound of a fifth of the free disk.
DISK_BYTES = 1 << 30
# The disk fills its memory with zeroes before it serves; a virtual machine that was never given that memory
# before takes up to 8 s for each GiB.
DISK_UP_SECONDS_MAX = 90
CONFIG = """\
node: {{ cores: 1, data_dir: {filesystem}/data }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: "127.0.0.1:0" }}
      http: {{ endpoint: "127.0.0.1:0" }}
tail_sampling:
  decision_wait: 30s
  policies:
    - {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}
exporters:
  file: {{ path: {work}/kept.jsonl }}
admin: {{ endpoint: "127.0.0.1:0" }}
"""


def find_tool():
    folder = os.environ.get("TAILKEEP_TEST_TOOLS") or os.path.join(os.path.dirname(PROJECT), "shared", "tools")
    path = os.path.join(folder, "volatile_disk.py")
    return path if os.path.exists(path) else None


def reason_to_skip():
    if os.geteuid() != 0:
        return "mounting needs root"
    if not find_tool():
        return "no volatile_disk.py (TAILKEEP_TEST_TOOLS names its folder)"
    for name in ("losetup", "mkfs.ext4", "mount", "umount"):
        if not shutil.which(name):
            return f"no {name}"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "no /dev/fuse or no loop devices"
    return None


class SlowDisk:
    """The mounted stack; `close` takes down whatever of it stands."""

    def __init__(self, work):
        self.mountpoint = os.path.join(work, "disk")
        self.filesystem = os.path.join(work, "filesystem")
        self.image = os.path.join(work, "image")
        self.undo = []
        os.makedirs(self.mountpoint)
        os.makedirs(self.filesystem)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self):
        command = [sys.executable, find_tool(), self.mountpoint, str(DISK_BYTES), self.image]
        self.process = subprocess.Popen(command)
        self.undo.append(self._end_disk)
        backing = os.path.join(self.mountpoint, "disk")
        deadline = time.monotonic() + DISK_UP_SECONDS_MAX
        # Asked from another process: a disk that hangs must not take this script with it.
        while subprocess.run(["timeout", "2", "test", "-f", backing], check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise OSError("the volatile disk did not come up")
            time.sleep(0.1)
        device = run("losetup", "--find", "--show", backing).strip()
        self.undo.append(lambda: run("losetup", "--detach", device))
        run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device)
        run("mount", "-t", "ext4", device, self.filesystem)
        self.undo.append(lambda: run("umount", self.filesystem))

    def sync_takes(self, seconds):
        """Returns once the disk has read it: a sync is then that slow, or quick again."""
        with open(self.image + ".fault", "w", encoding="ascii") as file:
            json.dump({"fsync_delay": seconds}, file)
        self.process.send_signal(signal.SIGUSR2)
        # The disk takes signals between operations; one that is being served may still be of the old kind.
        deadline = time.monotonic() + 10
        while True:
            began = time.monotonic()
            with open(os.path.join(self.filesystem, "probe"), "wb") as probe:
                probe.write(secrets.token_bytes(4096))
                probe.flush()
                os.fsync(probe.fileno())
            took = time.monotonic() - began
            if (took >= seconds * 0.95) if seconds else (took < 0.5):
                return
            if time.monotonic() > deadline:
                raise OSError(f"the disk's sync takes {took:.2f} s, not {seconds} s")

    def _end_disk(self):
        # Killed, or it would write two images of the whole disk first.
        self.process.kill()
        self.process.wait()
        run("umount", "--lazy", self.mountpoint)

    def close(self):
        while self.undo:
            step = self.undo.pop()
            try:
                step()
            except subprocess.CalledProcessError as error:
                print(f"left behind: {error}: {error.stderr}", file=sys.stderr)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def post_one(endpoint):
    """Seconds from send to reply of a request with one span, and its status."""
    client = otlp_encode.Client(endpoint)
    now = time.time_ns()
    span = otlp_encode.span(secrets.token_bytes(16), secrets.token_bytes(8), b"", "probe", 2, now - 1_000_000, now)
    body = otlp_encode.request([("service.name", "volatile-sync")], "check", [span])
    client.connection.connect()
    began = time.monotonic()
    status, _ = client.post(body)
    took = time.monotonic() - began
    client.close()
    return took, status


def post_together(endpoint, count, spread):
    """`count` requests from as many connections, begun `spread` seconds apart, so that some meet a sync under way."""
    results = [None] * count

    def post(index):
        time.sleep(index * spread)
        try:
            results[index] = post_one(endpoint)
        except OSError as error:
            results[index] = (0.0, repr(error))

    threads = [threading.Thread(target=post, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def check(disk, server, count, violations):
    endpoint = server.endpoints["http"]
    quick = [post_one(endpoint) for _ in range(5)]
    for took, status in quick:
        if status != 200:
            violations.append(f"a request on the quick disk was answered {status}")
    disk.sync_takes(SYNC_SECONDS)
    slow = [post_one(endpoint) for _ in range(min(4, count))]
    slow += post_together(endpoint, max(0, count - len(slow)), 0.23)
    disk.sync_takes(0)
    for took, status in slow:
        if status != 200:
            violations.append(f"a request on the slow disk was answered {status}")
        elif took < REPLY_SECONDS_MIN:
            violations.append(f"a reply came after {took:.3f} s, before a sync of {SYNC_SECONDS} s could end")
    again, status = post_one(endpoint)
    if status != 200:
        violations.append(f"a request after the slow time was answered {status}")
    return [took for took, _ in quick], [took for took, _ in slow], again


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=os.path.join(PROJECT, "target", "debug", "tailkeep"))
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to tailkeep run")
    arguments = parser.parse_args()
    reason = reason_to_skip()
    if reason:
        print(f"skipped: {reason}")
        return
    work = os.path.join(PROJECT, "target", "volatile-sync")
    if os.path.ismount(os.path.join(work, "filesystem")) or os.path.ismount(os.path.join(work, "disk")):
        sys.exit(f"error: {work} is still mounted from an earlier run")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    violations = []
    # An interrupt must not leave mounts behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    disk = SlowDisk(work)
    server = None
    try:
        config = os.path.join(work, "config.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(work=work, filesystem=disk.filesystem))
        server = Tailkeep(arguments.binary, config, os.path.join(work, "server.log"), arguments.set)
        server.wait_ready()
        quick, slow, again = check(disk, server, arguments.requests, violations)
        code = server.terminate()
        if code != 0:
            violations.append(f"tailkeep ended with {code} after SIGTERM")
    except NotReady as error:
        sys.exit(f"error: {error}")
    finally:
        if server:
            server.kill()
        disk.close()
    for violation in violations:
        print(f"violation: {violation}")
    print(
        f"replies: quick disk at most {max(quick):.3f} s; sync of {SYNC_SECONDS} s: {len(slow)} replies, "
        f"{min(slow):.3f} to {max(slow):.3f} s; after it {again:.3f} s; {len(violations)} violations"
    )
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
