"""A real HTTP server as the receiver of webhooks, in a process of its own.

What it got it writes to a file, a line of JSON for each request. The file `answer` says what it
answers: {"status": 200, "delay_s": 0, "headers": {}, "poison": null}; a request whose body contains
`poison` gets 500.
"""

import base64
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import ROOT, free_port, wait_for


class Got(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Receiver:
    """The process, as tests see it."""

    def __init__(self, folder: Path, port: int, scheme: str = "http") -> None:
        self.folder = folder
        self.url = f"{scheme}://127.0.0.1:{port}/hook"
        self.port = port

    def answers(self, status: int = 200, delay_s: float = 0, **more: Any) -> None:
        part = self.folder / "part"
        part.write_text(json.dumps({"status": status, "delay_s": delay_s, **more}))
        part.replace(self.folder / "answer")

    def got(self) -> list[Got]:
        file = self.folder / "got"
        text = file.read_text() if file.exists() else ""
        found = []
        for line in text.split("\n")[:-1]:  # the last may be half written
            path, headers, body, at_s = json.loads(line)
            found.append(Got(path, headers, base64.b64decode(body), at_s))
        return found

    def events(self) -> list[str]:
        """The ids of the events, each once, as they came first."""
        return list(dict.fromkeys(one.id for one in self.got()))


@contextmanager
def receiving(folder: Path, certificate: Path | None = None) -> Iterator[Receiver]:
    """With a certificate and its key in a file, by https."""
    folder.mkdir(parents=True, exist_ok=True)
    receiver = Receiver(folder, free_port(), "https" if certificate else "http")
    receiver.answers()
    command = [sys.executable, "-m", "tests.feed.receiver", str(folder), str(receiver.port)]
    command += [str(certificate)] if certificate else []
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        assert wait_for((folder / "ready").exists, 30)
        yield receiver
    finally:
        process.kill()
        process.wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = [self.path, headers, base64.b64encode(body).decode(), time.time()]
        with (self.folder / "got").open("a") as file:
            file.write(json.dumps(line) + "\n")
        answer = json.loads((self.folder / "answer").read_text())
        time.sleep(answer["delay_s"])
        poison = answer.get("poison")
        status = 500 if poison and poison.encode() in body else answer["status"]
        self.send_response(status)
        for name, value in answer.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    _Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler)
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    (_Handler.folder / "ready").touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
