#!/usr/bin/env python3
"""A tailkeep process for end-to-end scripts: start, ready line, status, stop.

Only processes that were started here are ended, by their pid. Standard library only.

    tailkeep_process.py await-idle ADMIN [SECONDS]    waits until nothing is pending or queued
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
READY = re.compile(r"^tailkeep ready (.*)$")


class NotReady(Exception):
    """The process ended, or said nothing in time, before it was ready."""


class Tailkeep:
    """One run of `tailkeep run`. Its stderr is appended to `log_path`."""

    def __init__(self, binary, config, log_path, settings=(), environment=None, prefix=(), token=None):
        self.token = token
        command = [*prefix, binary, "run", "--config", config]
        for setting in settings:
            command += ["--set", setting]
        self.log = open(log_path, "ab")
        self.lines = []
        self.endpoints = {}
        self.ready = threading.Event()
        self.started_at = time.monotonic()
        environment = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        # Read to the end even after the ready line, or a full pipe would stop the server.
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.write(line)
            self.log.flush()
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.lines = self.lines[-50:] + [text]
            match = READY.match(text)
            if match and not self.ready.is_set():
                self.endpoints = dict(word.split("=", 1) for word in match.group(1).split() if "=" in word)
                self.ready.set()
        self.ready.set()

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self, seconds=60):
        """Seconds from start to ready."""
        if not self.ready.wait(seconds) or not self.endpoints:
            try:
                # It closes its stderr a moment before it has ended.
                code = self.process.wait(1)
            except subprocess.TimeoutExpired:
                code = None
            self.kill()
            state = "said nothing in time" if code is None else f"ended with {code}"
            raise NotReady(f"tailkeep {state}; its last lines:\n  " + "\n  ".join(self.lines[-12:]))
        return time.monotonic() - self.started_at

    def status(self, seconds=5):
        return fetch_status(self.endpoints["admin"], seconds, token=self.token)

    def metrics(self):
        return fetch(self.endpoints["admin"], "/metrics").decode()

    def rss_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0

    def kill(self):
        """kill -9; nothing if it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._close()

    def terminate(self, seconds=35):
        """SIGTERM; the exit code, None if it had to be killed after `seconds`."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._ended(seconds)

    def drain(self, seconds=60):
        """POST /api/v1/drain; otherwise as `terminate`."""
        fetch(self.endpoints["admin"], "/api/v1/drain", token=self.token, method="POST")
        return self._ended(seconds)

    def _ended(self, seconds):
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self._close()
        return code

    def _close(self):
        self.reader.join(5)
        if not self.reader.is_alive():
            self.process.stderr.close()
            self.log.close()


def fetch(admin, path, seconds=5, token=None, method="GET"):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{admin}{path}", headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=seconds) as reply:
        return reply.read()


def fetch_status(admin, seconds=5, token=None):
    return json.loads(fetch(admin, "/api/v1/status", seconds, token))


def unsettled(status):
    """What keeps a node from being idle, in words; empty when it is."""
    what = []
    for signal_name, counts in status["signals"].items():
        if counts.get("pending"):
            what.append(f"{counts['pending']} {signal_name} pending")
    if status["traces"]["pending"]:
        what.append(f"{status['traces']['pending']} traces pending")
    for exporter in status["exporters"]:
        if exporter["queued_items"]:
            what.append(f"{exporter['queued_items']} items queued for {exporter['id']}")
    return what


def await_idle(admin, seconds, token=None):
    """The status once nothing is pending or queued; TimeoutError naming what still is."""
    deadline = time.monotonic() + seconds
    while True:
        status = fetch_status(admin, max(5, deadline - time.monotonic()), token)
        what = unsettled(status)
        if not what:
            return status
        if time.monotonic() > deadline:
            raise TimeoutError(f"not idle after {seconds} s: " + ", ".join(what))
        time.sleep(0.2)


def ledger_violations(status):
    """accepted + resumed + upgraded = kept + rolled_up + denied + lost + pending, for each signal."""
    wrong = []
    for name, counts in status["signals"].items():
        if not counts:
            continue
        came = counts["accepted"] + counts["resumed"] + counts["upgraded"]
        went = sum(counts[key] for key in ("kept", "rolled_up", "denied", "lost", "pending"))
        if came != went:
            wrong.append(f"the ledger of {name} does not balance: {came} came, {went} went: {counts}")
        if counts["lost"]:
            wrong.append(f"{counts['lost']} {name} lost")
    return wrong


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] != "await-idle":
        sys.exit(__doc__)
    try:
        status = await_idle(sys.argv[2], float(sys.argv[3]) if len(sys.argv) == 4 else 60)
    except TimeoutError as error:
        sys.exit(f"error: {error}")
    wrong = ledger_violations(status)
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
