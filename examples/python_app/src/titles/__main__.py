"""Answers GET /?title=… with the title as part of an address."""

import os
import signal
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import slugs


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        title = parse_qs(urlsplit(self.path).query).get("title")
        if title is None:
            self.send_error(HTTPStatus.BAD_REQUEST, "ask for /?title=...")
            return
        body = slugs.slug(title[0], int(os.environ["LONGEST"])).encode() + b"\n"
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
