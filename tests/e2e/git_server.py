"""Knows how to make git repositories for a test and serve them on loopback; runs the host's git."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_BACKEND = "/usr/lib/git-core/git-http-backend"
_ENV = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "1600000000 +0000",
    "GIT_COMMITTER_DATE": "1600000000 +0000",
}


def git(where: Path, *words: str, data: str | None = None) -> str:
    """Run git in a directory; returns what it printed."""
    done = subprocess.run(
        ["/usr/bin/git", "-c", "safe.directory=*", "-c", "protocol.file.allow=always", *words],
        cwd=where,
        env=_ENV,
        input=data,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Repository:
    """A bare repository, filled without any work tree, so that it can hold what git would refuse."""

    path: Path
    entries: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Any], branch: str = "main") -> str:
        """Commit files: text, `("link", target)`, `("exec", text)` or `("module", commit)`."""
        index = self.path / "test-index"
        index.unlink(missing_ok=True)
        lines = ""
        for name, value in files.items():
            kind, text = value if isinstance(value, tuple) else ("file", value)
            mode = {"file": "100644", "exec": "100755", "link": "120000", "module": "160000"}[kind]
            made = text if kind == "module" else self._blob(text)
            lines += f"{mode} {made}\t{name}\n"
        words = ["env", f"GIT_INDEX_FILE={index}", "git", "--git-dir", str(self.path)]
        subprocess.run(
            [*words, "update-index", "--index-info"],
            input=lines,
            text=True,
            check=True,
            env=_ENV,
            capture_output=True,
        )
        tree = subprocess.run(
            [*words, "write-tree", "--missing-ok"],
            text=True,
            check=True,
            env=_ENV,
            capture_output=True,
        ).stdout.strip()
        parent = ["-p", branch] if self._has(branch) else []
        made = git(self.path, "commit-tree", tree, "-m", "m", *parent)
        git(self.path, "update-ref", f"refs/heads/{branch}", made)
        return made

    def _blob(self, text: str) -> str:
        return git(self.path, "hash-object", "-w", "--stdin", data=text)

    def _has(self, ref: str) -> bool:
        return bool(git(self.path, "for-each-ref", f"refs/heads/{ref}"))


def new_repository(path: Path) -> Repository:
    """Make an empty bare repository that anybody may read."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--bare", "--initial-branch=main", ".")
    git(path, "config", "http.receivepack", "false")
    return Repository(path)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.asked.append(self.path)
        self.server.headers_seen.append(dict(self.headers.items()))
        wanted = self.server.password
        if wanted and self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.dumb:
            self._static(path)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = _ENV | {
            "GIT_PROJECT_ROOT": str(self.server.top),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        if not self.server.old and self.headers.get("Git-Protocol"):
            env["HTTP_GIT_PROTOCOL"] = self.headers["Git-Protocol"]
        done = subprocess.run([_BACKEND], env=env, input=body, capture_output=True, check=False)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().splitlines()]
        status = next((int(v.split()[0]) for k, _, v in lines if k == "Status"), 200)
        self.send_response(status)
        for key, _, value in lines:
            if key != "Status":
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def _static(self, path: str) -> None:
        place = self.server.top / path.lstrip("/")
        data = place.read_bytes() if place.is_file() else b""
        self.send_response(200 if place.is_file() else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """git's own http backend, or plain files (`dumb`); `old` speaks protocol 0 alone."""

    daemon_threads = True

    def __init__(self, top: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.top = top
        self.password = ""
        self.dumb = False
        self.old = False
        self.asked: list[str] = []
        self.headers_seen: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """The address of what is served."""
        return f"http://127.0.0.1:{self.server_port}"

    def ask_for(self, user: str, word: str) -> None:
        """Want a login from now on."""
        self.password = "basic " + base64.b64encode(f"{user}:{word}".encode()).decode()


@contextlib.contextmanager
def serving(top: Path) -> Iterator[Server]:
    """Serve the repositories below a directory."""
    server = Server(top)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tree_of(directory: str | Path) -> dict[str, str]:
    """Return path -> mode and content of a directory."""
    out = {}
    for top, directories, names in os.walk(directory):
        for name in (*directories, *names):
            path = Path(top) / name
            shown = str(path.relative_to(directory))
            if path.is_symlink():
                out[shown] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                out[shown] = "dir"
            else:
                out[shown] = f"{path.stat().st_mode & 0o777:o} {path.read_text(errors='replace')}"
    return out
