"""A small encoder of OTLP trace requests (protobuf), and an HTTP client for them. Standard library only."""

import http.client
import struct


def _varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field, value):
    return _varint(field << 3) + _varint(value)


def fixed64(field, value):
    return _varint(field << 3 | 1) + struct.pack("<Q", value)


def field_bytes(field, value):
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def attribute(field, key, text):
    any_value = field_bytes(1, text.encode())
    return field_bytes(field, field_bytes(1, key.encode()) + field_bytes(2, any_value))


def span(trace_id, span_id, parent_id, name, kind, start_ns, end_ns, attributes=(), is_error=False):
    """Ids as bytes; `parent_id` empty for a root; `attributes` pairs of texts."""
    message = field_bytes(1, trace_id) + field_bytes(2, span_id)
    if parent_id:
        message += field_bytes(4, parent_id)
    message += field_bytes(5, name.encode()) + integer(6, kind) + fixed64(7, start_ns) + fixed64(8, end_ns)
    for key, text in attributes:
        message += attribute(9, key, text)
    if is_error:
        message += field_bytes(15, integer(3, 2))
    return message


def request(resource_attributes, scope_name, spans):
    """An ExportTraceServiceRequest of one resource and one scope."""
    resource = b"".join(attribute(1, key, text) for key, text in resource_attributes)
    scope_spans = field_bytes(1, field_bytes(1, scope_name.encode()))
    scope_spans += b"".join(field_bytes(2, message) for message in spans)
    return field_bytes(1, field_bytes(1, resource) + field_bytes(2, scope_spans))


class Client:
    """Posts requests over one connection, which it opens again when the server closed it."""

    def __init__(self, endpoint, seconds=30):
        host, _, port = endpoint.removeprefix("http://").rstrip("/").rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=seconds)
        # Of the last reply; names in lower case.
        self.headers = {}

    def post(self, body):
        """(status, reply). A request is not sent twice: the server may have it."""
        headers = {"Content-Type": "application/x-protobuf"}
        try:
            self.connection.request("POST", "/v1/traces", body, headers)
            reply = self.connection.getresponse()
            self.headers = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, reply.read()
        except OSError:
            self.connection.close()
            raise
        except http.client.HTTPException as error:
            self.connection.close()
            raise OSError(f"not an HTTP reply: {error!r}") from error

    def close(self):
        self.connection.close()
