"""An OTLP/HTTP destination with a script: answers as it is told, and remembers which spans it took."""

import gzip
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A span's first two fields, as every encoder writes them: 16 bytes of trace id, 8 of span id.
IDS = re.compile(rb"\x0a\x10(.{16})\x12\x08(.{8})", re.DOTALL)


class Answer:
    """`takes`: whether the spans count as taken."""

    def __init__(self, status=200, body=b"", headers=(), takes=True, delay=0.0, closes=False):
        self.status, self.body, self.headers = status, body, dict(headers)
        self.takes, self.delay, self.closes = takes, delay, closes


OK = Answer()


class Destination:
    """`answer` is what the next requests get; a list is worked off first."""

    def __init__(self, case):
        self.arrived = {}
        # Those that came with an answer that did not take them.
        self.turned_away = set()
        self.answer, self.script = OK, []
        # (when, status, spans)
        self.requests = []
        self.lock = threading.Lock()
        destination = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                destination.handle(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        case.undo.callback(self.close)

    def handle(self, request):
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self.lock:
            answer = self.script.pop(0) if self.script else self.answer
            keys = [trace + span for trace, span in IDS.findall(body)]
            self.requests.append((time.monotonic(), answer.status, len(keys)))
            for key in keys:
                if answer.takes:
                    self.arrived[key] = self.arrived.get(key, 0) + 1
                else:
                    self.turned_away.add(key)
        time.sleep(answer.delay)
        if answer.closes:
            request.close_connection = True
            return
        try:
            request.send_response(answer.status)
            for name, value in {"Content-Type": "application/x-protobuf", **answer.headers}.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(answer.body)))
            request.end_headers()
            request.wfile.write(answer.body)
        except OSError:
            # Whoever asked did not wait.
            request.close_connection = True

    def exporter(self, **settings):
        """Its configuration."""
        retry = {"initial_interval": "200ms", "max_interval": "1s"}
        return {"endpoint": self.endpoint, "compression": "none", "retry_on_failure": retry, **settings}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
