"""A relay of datagrams that are late, each by its own time, so that they come out of order."""

import heapq
import random
import selectors
import socket
import threading
import time


class DatagramRelay:
    """What comes to `address` goes on to `upstream` between two times later."""

    def __init__(self, case, address, upstream, delay_seconds):
        self.upstream, self.delay_seconds = upstream, delay_seconds
        self.random = random.Random(case.draw.getrandbits(64))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.passed = 0
        self.is_closed = False
        self.thread = threading.Thread(target=self.carry, daemon=True)
        self.thread.start()
        case.undo.callback(self.close)

    def carry(self):
        late = []
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            while not self.is_closed:
                wait = max(0.0, late[0][0] - time.monotonic()) if late else 0.2
                if selector.select(min(wait, 0.2)):
                    self.take(late)
                while late and late[0][0] <= time.monotonic():
                    _, _, content = heapq.heappop(late)
                    try:
                        self.socket.sendto(content, self.upstream)
                        self.passed += 1
                    except OSError:
                        # Nobody is there at the moment: lost, as datagrams are.
                        pass

    def take(self, late):
        for _ in range(256):
            try:
                content = self.socket.recv(65536)
            except OSError:
                return
            due = time.monotonic() + self.random.uniform(*self.delay_seconds)
            heapq.heappush(late, (due, self.random.random(), content))

    def close(self):
        self.is_closed = True
        self.thread.join(2)
        self.socket.close()
