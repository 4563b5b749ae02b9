"""A TCP relay before a destination that can be away, mute, slow, or swallow replies."""

import selectors
import socket
import threading
import time


class Relay:
    """`mode`: pass, away (nobody listens), mute (takes bytes, passes none on), swallow (passes on, loses replies)."""

    def __init__(self, case, upstream, address=("127.0.0.1", 0)):
        host, _, port = upstream.rpartition(":")
        self.upstream = (host, int(port))
        self.mode = "pass"
        # Bytes a second towards the destination; 0: as they come.
        self.rate = 0
        self.swallowed = 0
        self.listener = None
        self.lock = threading.Lock()
        self.pairs = set()
        self.is_closed = False
        self.address = address
        self.listen()
        self.address = self.listener.getsockname()
        self.endpoint = "%s:%d" % self.address
        case.undo.callback(self.close)

    def listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen()
        self.listener = listener
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def become(self, mode, rate=0):
        """From now on; connections that are open are closed."""
        before, self.mode, self.rate = self.mode, mode, rate
        if mode == "away" and before != "away":
            # A close alone would leave the port open while its thread waits in accept.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.drop()
        if before == "away" and mode != "away":
            self.listen()

    def drop(self):
        with self.lock:
            pairs, self.pairs = self.pairs, set()
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        mode = self.mode
        try:
            server = socket.create_connection(self.upstream, 5)
        except OSError:
            client.close()
            return
        pair = (client, server)
        with self.lock:
            self.pairs.add(pair)
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            try:
                while self.carry(selector, mode, server):
                    pass
            except OSError:
                pass
        with self.lock:
            self.pairs.discard(pair)
        client.close()
        server.close()

    def carry(self, selector, mode, server):
        for key, _ in selector.select():
            content = key.fileobj.recv(1 << 16)
            if not content:
                return False
            if mode == "mute":
                continue
            if mode == "swallow" and key.fileobj is server:
                # What the destination had was its reply, too; the connection goes a moment later.
                self.swallowed += 1
                time.sleep(0.02)
                return False
            if self.rate and key.fileobj is not server:
                time.sleep(len(content) / self.rate)
            key.data.sendall(content)
        return True

    def close(self):
        self.is_closed = True
        if self.mode != "away":
            self.listener.close()
        self.drop()
