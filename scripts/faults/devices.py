"""Small file systems that can be filled, fail, and lose power. All need root; what was mounted goes with the case."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time

from faults.case import Skip, run

MIB = 1 << 20
# EXT4_IOC_SHUTDOWN and its way without writing the journal: the file system as a power cut leaves it.
SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2
# Blocks of a page: see `one_request_each`.
MKFS = ("mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")


def require(case):
    for name in ("losetup", "mkfs.ext4", "mount", "umount"):
        case.require(name)
    if not os.path.exists("/dev/loop-control"):
        raise Skip("no loop devices")


class Filesystem:
    """An ext4 on a loop device over `backing`, mounted at `path`."""

    def __init__(self, case, backing, make=True, inodes=None):
        require(case)
        self.path = os.path.join(os.path.dirname(os.path.dirname(backing)), "fs")
        os.makedirs(self.path, exist_ok=True)
        self.device = run("losetup", "--find", "--show", backing).strip()
        self.is_mounted = False
        one_request_each(self.device)
        try:
            if make:
                run(*MKFS, *(("-N", str(inodes)) if inodes else ()), self.device)
            self.mount()
        except BaseException:
            run("losetup", "--detach", self.device)
            raise
        case.undo.callback(self.close)

    @classmethod
    def new(cls, case, size=256 * MIB, inodes=None):
        """On an image of its own."""
        backing = new_image(case, size)
        return cls(case, backing, inodes=inodes)

    def mount(self):
        """Writable. After a lazy unmount that nobody has let go of it would be the old one, read-only, again."""
        for _ in range(60):
            run("mount", "-t", "ext4", self.device, self.path)
            self.is_mounted = True
            if not os.statvfs(self.path).f_flag & os.ST_RDONLY:
                return
            self.unmount()
            time.sleep(0.5)
        raise OSError(f"{self.path} stays read-only")

    def unmount(self):
        """Nobody may have a file open in it any more; a process that was killed may take a moment."""
        for _ in range(100):
            try:
                run("umount", self.path)
                break
            except OSError:
                time.sleep(0.1)
        else:
            run("umount", "--lazy", self.path)
        self.is_mounted = False

    def cut_power(self):
        """From now on every operation fails; what is on the device stays."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, WITHOUT_LOG.to_bytes(4, sys.byteorder))
        finally:
            os.close(directory)

    def close(self):
        if self.is_mounted:
            self.unmount()
        if self.device:
            run("losetup", "--detach", self.device)
            self.device = None


def one_request_each(device):
    """Writes of at most what one FUSE request carries, so that a write fails as a whole: when FUSE has written a part
    of it and then fails, the loop driver takes the short count for success, and the disk would lie."""
    with open(f"/sys/block/{os.path.basename(device)}/queue/max_sectors_kb", "w") as file:
        file.write("128")


def new_image(case, size):
    folder = case.path("device")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "image")
    with open(path, "wb") as file:
        file.truncate(size)
    return path


class VolatileDisk:
    """volatile_disk.py with an ext4 on it. `image` comes from an earlier cut, or is made."""

    def __init__(self, case, size=192 * MIB, image=None):
        require(case)
        if not os.path.exists("/dev/fuse"):
            raise Skip("no /dev/fuse")
        self.case = case
        self.mountpoint = case.path("device", "mountpoint")
        os.makedirs(self.mountpoint, exist_ok=True)
        path = image or new_image(case, size)
        script = os.path.join(os.path.dirname(__file__), "volatile_disk.py")
        self.process = subprocess.Popen(
            [sys.executable, script, self.mountpoint, path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        case.undo.callback(self.close)
        backing = os.path.join(self.mountpoint, "disk")
        deadline = time.monotonic() + 30
        # Asked from another process: a disk that hangs must not take this script with it.
        while subprocess.run(["timeout", "2", "test", "-f", backing], check=False).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise OSError("the volatile disk did not come up")
            time.sleep(0.05)
        self.filesystem = Filesystem(case, backing, make=image is None)
        self.path = self.filesystem.path
        # Before the file system goes, which syncs.
        case.undo.callback(self.heal)

    def heal(self):
        if self.process.poll() is None:
            self.command("faults")

    def command(self, do, **what):
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def cut(self, path, keep):
        """Writes what is left of it to `path`, this moment."""
        return self.command("cut", path=path, keep=keep, seed=self.case.draw.getrandbits(32))

    def faults(self, **faults):
        return self.command("faults", **faults)

    def close(self):
        if self.process.poll() is not None:
            return
        try:
            self.heal()
            filesystem = getattr(self, "filesystem", None)
            if filesystem:
                filesystem.close()
        finally:
            subprocess.run(["umount", self.mountpoint], check=False, capture_output=True)
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()


def copy(path, to):
    """Of a directory, as it is."""
    shutil.rmtree(to, ignore_errors=True)
    run("cp", "--archive", "--sparse=always", path, to)
