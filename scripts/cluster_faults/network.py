"""Network namespaces for nodes, one bridge, and rules for what gets lost, comes twice, or is cut.

    node 0: eth0 10.83.0.1 ──┐
    node 1: eth0 10.83.0.2 ──┼── bridge, 10.83.0.254: clients, the judge, relays
    a stranger 10.83.0.201 ──┘

What comes from the bridge's own address is never disturbed.
"""

import ctypes
import json
import os
import shutil
import subprocess

from faults.case import run

HUB = "10.83.0.254"
PORT = 5337
CLONE_NEWNS, CLONE_NEWNET = 0x0002_0000, 0x4000_0000
# Named namespaces are mounts here.
NAMES = "/run/netns"
RULES = f"""\
table inet faults {{
    set cut {{ type ipv4_addr; }}
    chain lossy {{ }}
    chain in {{
        type filter hook input priority 0;
        ip saddr @cut counter drop
        meta iifname "eth0" ip saddr != {HUB} jump lossy
    }}
}}
"""


def isolate():
    """Moves this process into a mount and a network namespace of its own; why it cannot, if so."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "nft", "setpriv"):
        if not shutil.which(program):
            return f"no {program}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        return f"no namespaces: {os.strerror(ctypes.get_errno())}"
    try:
        run("mount", "--make-rprivate", "/")
        os.makedirs(NAMES, exist_ok=True)
        run("mount", "-t", "tmpfs", "none", NAMES)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "address", "add", f"{HUB}/24", "dev", "bridge")
        run("ip", "link", "set", "bridge", "up")
        run("nft", "add", "table", "inet", "faults")
    except OSError as error:
        return str(error)
    return None


class Namespace:
    """A host on the bridge, as far as its network goes."""

    def __init__(self, case, name, number):
        self.name = name
        self.address = f"10.83.0.{number}"
        # A node ends with whoever started it, however that ends.
        self.prefix = ("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name)
        run("ip", "netns", "add", name)
        case.undo.callback(run, "ip", "netns", "delete", name)
        # Deleting a namespace takes its end of the link a moment later; by hand it is gone at once.
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        case.undo.callback(run, "ip", "link", "delete", f"to-{name}")
        run("ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "eth0", "up")
        self.nft(RULES)

    def ip(self, *words):
        run("ip", "-n", self.name, *words)

    def nft(self, rules):
        command = ["ip", "netns", "exec", self.name, "nft", "-f", "-"]
        done = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"nft says: {done.stderr.strip()}")

    def lose(self, percent):
        """Of what comes in, whatever its protocol."""
        rule = f"add rule inet faults lossy numgen random mod 1000 < {int(percent * 10)} counter drop\n"
        self.nft("flush chain inet faults lossy\n" + (rule if percent else ""))

    def repeat(self, percent, port=PORT):
        """Of the datagrams that go out to this port and those above."""
        self.nft(
            "table netdev repeat {\n chain out {\n  type filter hook egress device eth0 priority 0;\n"
            f"  udp dport >= {port} numgen random mod 1000 < {int(percent * 10)} dup to eth0\n }}\n}}\n"
        )

    def cut(self, *others):
        """Hears nothing of them from now on."""
        addresses = ", ".join(other.address for other in others)
        self.nft(f"add element inet faults cut {{ {addresses} }}\n")

    def heal(self):
        self.nft("flush set inet faults cut\n")

    def dropped(self):
        """Packets, since the rules are there."""
        text = run("ip", "netns", "exec", self.name, "nft", "-j", "list", "ruleset")
        return sum(counter["packets"] for counter in find(json.loads(text), "counter"))


def find(document, key):
    """Everything in it that has this name."""
    if isinstance(document, list):
        for part in document:
            yield from find(part, key)
    elif isinstance(document, dict):
        for name, part in document.items():
            if name == key:
                yield part
            else:
                yield from find(part, key)


def apart(one_side, other_side):
    """Nothing goes between the two, in either direction."""
    for side, other in ((one_side, other_side), (other_side, one_side)):
        for namespace in side:
            namespace.cut(*other)
