"""Speak JSON over HTTP: a table of routes, and a client."""

import json
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen


class Refused(Exception):
    """What a route raises to answer with another status."""

    def __init__(self, status: int, reason: str):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def serve(routes: dict, port: int = 8080) -> None:
    """Answer `routes`, `METHOD /regex` -> function of its groups and a body, and `GET /health`."""
    own = {"GET /health": lambda: {"ok": True}, "GET /": lambda: {"routes": [*table]}}
    table = own | routes

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            status, value = _answer(table, f"{self.command} {self.path}", self._body())
            content = json.dumps(value).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def _body(self) -> list:
            length = int(self.headers.get("Content-Length", "0"))
            return [json.loads(self.rfile.read(length))] if length else []

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on {port}")
    ThreadingHTTPServer(("", port), Handler).serve_forever()


def _answer(table: dict, line: str, body: list) -> tuple:
    for route, function in table.items():
        if found := re.fullmatch(route, line):
            try:
                return 201 if body else 200, function(*found.groups(), *body)
            except Refused as refused:
                return refused.status, {"error": refused.reason}
    return 404, {"error": f"there is no {line}"}


def ask(url: str, body: object = None):
    """Return what another service says; POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data), timeout=5) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise Refused(error.code, json.load(error)["error"]) from error


def healthy(port: int) -> bool:
    """Say whether the service in this container is well, for its HEALTHCHECK."""
    return ask(f"http://localhost:{port}/health")["ok"]


if __name__ == "__main__":
    sys.exit(not healthy(int(sys.argv[1])))
