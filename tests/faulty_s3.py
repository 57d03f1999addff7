"""A real S3 server on loopback behind a proxy that fails now and then: 500, 503, or a connection cut off.

    with faulty_s3(rate=0.2) as s3:
        env = s3.environment          # AWS_ENDPOINT_URL and credentials, which s3fs and botocore honour
        location = f"{s3.bucket}/set" # s3://bucket/set

The faults come from a seeded generator, as many of every ten requests as asked for. A request fails before the server has seen it or, for one fault in four, after
it has done its work and before the client hears of it: an answer that is lost is the harder case.
"""

import http.client
import random
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

BUCKET = "clones"


@dataclass(kw_only=True)
class FaultyS3:
    """Where the server is, and what it has seen."""

    endpoint: str
    rate: float
    """Share of the requests that fail, in whole tenths: so many of each ten; may be changed at any time."""
    requests: int = 0
    faults: int = 0
    log: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""

    @property
    def bucket(self) -> str:
        """URL of an empty bucket."""
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point s3fs here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def make_handler(server_port: int, state: FaultyS3, chance: random.Random) -> type[BaseHTTPRequestHandler]:
    """The proxy's handler of one connection."""
    lock = threading.Lock()
    ahead: list[bool] = []
    """Which of the next requests fail."""
    ahead_rate = state.rate

    def fails() -> bool:
        nonlocal ahead_rate
        if not ahead or ahead_rate != state.rate:
            ahead_rate, faults = state.rate, round(10 * state.rate)
            ahead[:] = [True] * faults + [False] * (10 - faults)
            chance.shuffle(ahead)
        return ahead.pop()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self) -> None:
            if "100-continue" in self.headers.get("Expect", ""):
                pass  # http.server has already told the client to go on
            body = self.body()
            with lock:
                state.requests += 1
                state.log.append((self.command, self.path))
                faulty = fails()
                kind = chance.choice(["500", "503", "cut", "lost"]) if faulty else ""
                state.faults += faulty
            if kind in {"500", "503"}:
                code = {"500": "InternalError", "503": "SlowDown"}[kind]
                self.reply(int(kind), {}, f"<Error><Code>{code}</Code><Message>fault</Message></Error>".encode())
                return
            if kind == "cut":
                self.cut()
                return
            connection = http.client.HTTPConnection("127.0.0.1", server_port, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in {"transfer-encoding", "expect"}}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if kind == "lost":
                self.cut()
                return
            kept = {k: v for k, v in response.getheaders() if k.lower() not in {"connection", "transfer-encoding"}}
            self.reply(response.status, kept, data)

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(2)

        def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    return Handler


class Proxy(socketserver.ThreadingTCPServer):
    """The listener; a client that goes away is no news."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def faulty_s3(rate: float, seed: int = 0) -> Iterator[FaultyS3]:
    """A server with one empty bucket, while the block runs."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)
    state = FaultyS3(endpoint="", rate=rate)
    proxy = Proxy(("127.0.0.1", 0), make_handler(port, state, random.Random(seed)))
    state.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
