"""Strangers at the port of a cluster."""

import ctypes
import os
import random
import secrets
import socket
import struct
import threading
import time

import cluster
from cluster_faults.fleet import Fleet, total, words
from cluster_faults.keys import KeyFile
from cluster_faults.network import CLONE_NEWNET, NAMES, PORT, Namespace
from faults.case import fault

DATAGRAM_BYTES_MAX = 1232
ETH_P_ALL = 3
# Datagrams a second of a stranger; more than that is lost in the queue of a socket on two busy processors.
PACE = 10_000


def within(namespace, make):
    """What `make` returns, made in a namespace; sockets stay where they were made."""
    made = []

    def enter():
        with open(os.path.join(NAMES, namespace.name), "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(f"setns: {os.strerror(ctypes.get_errno())}")
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


def captured(namespace, seconds):
    """Datagrams on their way to a node."""
    found = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.bind((f"to-{namespace.name}", 0))
        sniffer.settimeout(0.2)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                frame = sniffer.recv(65536)
            except TimeoutError:
                continue
            # Ethernet, IPv4 without options, UDP, to this node's port.
            is_udp = frame[12:14] == b"\x08\x00" and frame[14] == 0x45 and frame[23] == 17
            if is_udp and socket.inet_ntoa(frame[30:34]) == namespace.address and frame[36:38] == struct.pack(">H", PORT):
                found.append(frame[42:])
    return found


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        words = stat.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Stranger:
    def __init__(self, case):
        self.namespace = Namespace(case, "stranger", 201)
        self.socket = within(self.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.setblocking(False)
        case.undo.callback(self.socket.close)
        self.case = case

    def send(self, node, contents):
        """At an even pace; how many left."""
        began, sent = time.monotonic(), 0
        for content in contents:
            try:
                self.socket.sendto(content, node)
                sent += 1
            except BlockingIOError:
                time.sleep(0.001)
            ahead = sent / PACE - (time.monotonic() - began)
            if ahead > 0.002:
                time.sleep(ahead)
        return sent

    def heard(self):
        """Replies so far."""
        count = 0
        while True:
            try:
                self.socket.recv(65536)
                count += 1
            except OSError:
                return count

    def frames(self, address, contents):
        """Bytes that come back over TCP."""
        back = 0
        for content in contents:
            client = within(self.namespace, lambda: socket.create_connection(address, 5))
            with client:
                client.settimeout(0.5)
                try:
                    client.sendall(content)
                    client.shutdown(socket.SHUT_WR)
                    while part := client.recv(65536):
                        back += len(part)
                except OSError:
                    pass
        return back


def kinds(draw, genuine, count):
    """What a stranger may send: name, datagrams, and as what they are counted if it is one thing."""
    def flipped():
        content = bytearray(draw.choice(genuine))
        # Beyond the magic: what is not of this format is garbage already.
        content[draw.randrange(3, len(content))] ^= 1 << draw.randrange(8)
        return bytes(content)

    def truncated():
        content = draw.choice(genuine)
        return content[: draw.randrange(1, len(content))]

    return [
        ("garbage", (draw.randbytes(draw.randrange(1, DATAGRAM_BYTES_MAX)) for _ in range(count))),
        ("with our head", (draw.choice(genuine)[:37] + draw.randbytes(draw.randrange(20, 900)) for _ in range(count))),
        ("bit flipped", (flipped() for _ in range(count))),
        ("truncated", (truncated() for _ in range(count))),
        ("replayed", (draw.choice(genuine) for _ in range(count))),
        ("oversized", (draw.choice(genuine)[:37] + draw.randbytes(draw.randrange(DATAGRAM_BYTES_MAX - 36, 1430)) for _ in range(count))),
    ]  # fmt: skip


def refused(node):
    text = node.process.metrics()
    all_in = cluster.counter(text, 'tailkeep_gossip_datagrams_total{direction="in"')
    return int(all_in - cluster.counter(text, 'tailkeep_gossip_datagrams_total{direction="in",outcome="accepted"}'))


@fault("G12", "garbage, forged, bit-flipped, truncated, replayed and oversized datagrams, frames over TCP, and a node with another key; 3 nodes with a key", "nothing changes, nobody is answered, each is counted; memory stays flat", root=True)
def strangers(case):
    file = KeyFile(case)
    file.write(secrets.token_hex(32))
    fleet = Fleet(case, 3, with_=file.settings)
    fleet.start()
    load = fleet.load(1500)
    target, namespace = fleet.nodes[0], fleet.network[0]
    genuine = captured(namespace, 4)
    fleet.end(load)
    fleet.settle()
    fleet.await_decisions(2)
    case.expect(len(genuine) > 50, f"{len(genuine)} datagrams captured")
    stranger = Stranger(case)
    address = (namespace.address, PORT)
    said = []
    count = case.count(20_000, 1_000_000)
    draw = random.Random(case.draw.getrandbits(64))
    members = fleet.states(target)
    decisions = total(fleet.metrics(), 'gossip_decisions_total{direction="in"}')
    rss = target.process.rss_bytes()
    for name, contents in kinds(draw, genuine, count):
        before, cpu, began = refused(target), cpu_seconds(target.process.pid), time.monotonic()
        sent = stranger.send(address, contents)
        time.sleep(0.5)
        took = time.monotonic() - began
        cpu = cpu_seconds(target.process.pid) - cpu
        counted = refused(target) - before
        case.expect(counted == sent, f"{name}: {counted} counted of {sent} sent")
        said.append(f"{name} {sent:,} ({sent / took / 1000:.0f}k/s, {cpu / took:.0%} of a processor)")
    back = stranger.frames(address, [draw.randbytes(draw.randrange(1, 4000)) for _ in range(40)]
                           + [b"\xff\xff\xff\xff" + bytes(100), b"\x00\x00\x10\x00" + draw.choice(genuine)])  # fmt: skip
    case.expect(back == 0, f"{back} bytes came back over TCP")
    case.expect(stranger.heard() == 0, "a stranger was answered")
    # Somebody with another key, and all else as it should be.
    other = KeyFile(case, "other-key")
    other.write(secrets.token_hex(32))
    at = Namespace(case, "other", 202)
    config = cluster.configuration(case.work, 99, f"{at.address}:{PORT}",
                                   [f"{one.address}:{PORT}" for one in fleet.network], at.address, [0])  # fmt: skip
    config["cluster"]["key_file"] = other.path
    config["admin"]["token_file"] = fleet.nodes[0].config["admin"]["token_file"]
    before = refused(target)
    outsider = cluster.Node(99, case.work, case.binary, config, prefix=at.prefix, token=fleet.nodes[0].token)
    case.undo.callback(lambda: outsider.process and outsider.process.kill())
    outsider.start()
    time.sleep(6)
    seen_by_it = fleet.states(outsider)
    case.expect(len(seen_by_it) == 1, f"with another key it sees {seen_by_it}")
    knocks = refused(target) - before
    case.expect(knocks > 0, "a node with another key was not counted")
    outsider.stop()
    case.expect(fleet.states(target) == members, f"members were {members}, are {fleet.states(target)}")
    came = total(fleet.metrics(), 'gossip_decisions_total{direction="in"}') - decisions
    case.expect(came == 0, f"{came} decisions were taken from strangers")
    grown = target.process.rss_bytes() - rss
    case.expect(grown < 16 << 20, f"{grown >> 20} MiB more memory")
    fleet.load_for(3)
    fleet.await_decisions(2)
    counts = fleet.finish(must_agree=True)
    return f"{'; '.join(said)}; all counted, 0 replies, members the same, 42 TCP frames and {knocks} knocks of a node with another key likewise; {grown / (1 << 20):.1f} MiB more; {words(counts)}"
