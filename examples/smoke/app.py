"""Count visitors in redis: GET /health, GET and POST /visits."""

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST, _, PORT = os.environ.get("DATABASE", "localhost:6379").partition(":")


def redis(*words):
    """Send one command and return the answer, a text or a number."""
    with socket.create_connection((HOST, int(PORT)), timeout=5) as connection:
        parts = [f"*{len(words)}", *(line for w in words for line in (f"${len(w)}", w))]
        connection.sendall("".join(f"{part}\r\n" for part in parts).encode())
        lines = connection.makefile("rb")
        head = lines.readline().decode().rstrip()
        if head.startswith("$"):
            return lines.readline().decode().rstrip() if head != "$-1" else None
        return int(head[1:]) if head.startswith(":") else head[1:]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"ok": redis("PING") == "PONG"})
        elif self.path == "/visits":
            self.answer(200, {"visits": int(redis("GET", "visits") or 0)})
        else:
            self.answer(404, {"error": f"there is no {self.path}"})

    def do_POST(self):
        if self.path == "/visits":
            self.answer(201, {"visits": redis("INCR", "visits")})
        else:
            self.answer(404, {"error": f"there is no {self.path}"})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"counting in {HOST}:{PORT}")
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
