"""Keep texts by name: in memory, in a file, in SQLite or in redis."""

import socket
import sys


def connect(place: str):
    """Return the store at `memory:`, `file:PATH`, `sqlite:PATH` or `redis:HOST:PORT`."""
    kind, _, where = place.partition(":")
    return {"memory": Memory, "file": File, "sqlite": Sqlite, "redis": Redis}[kind](where)


class Memory:
    """Lives as long as the process."""

    def __init__(self, _: str):
        self.values = {}

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    def put(self, name: str, value: str) -> None:
        self.values[name] = value

    def add(self, name: str, number: int) -> int:
        """Add to a number, 0 where there is none; return the sum."""
        total = int(self.get(name, "0")) + number
        self.put(name, str(total))
        return total


class File(Memory):
    """A line `name=value` each; whoever writes last wins."""

    def __init__(self, path: str):
        self.path = path
        try:
            with open(path, encoding="utf-8") as file:
                self.values = dict(line.rstrip("\n").split("=", 1) for line in file)
        except FileNotFoundError:
            self.values = {}

    def put(self, name: str, value: str) -> None:
        super().put(name, value)
        with open(self.path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in self.values.items())


class Sqlite(Memory):
    """One table."""

    def __init__(self, path: str):
        import sqlite3  # python3-minimal has none

        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("CREATE TABLE IF NOT EXISTS store (name TEXT PRIMARY KEY, value TEXT)")

    def get(self, name: str, default: str = "") -> str:
        row = self.db.execute("SELECT value FROM store WHERE name = ?", (name,)).fetchone()
        return row[0] if row else default

    def put(self, name: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (name, value))


class Redis:
    """A server that several services share."""

    def __init__(self, address: str):
        host, _, port = address.partition(":")
        self.address = (host, int(port or 6379))

    def get(self, name: str, default: str = "") -> str:
        found = self._ask("GET", name)
        return default if found is None else found

    def put(self, name: str, value: str) -> None:
        self._ask("SET", name, value)

    def add(self, name: str, number: int) -> int:
        return int(self._ask("INCRBY", name, str(number)))

    def _ask(self, *words: str):
        with socket.create_connection(self.address, timeout=5) as connection:
            parts = [word.encode() for word in words]
            lines = [b"*%d" % len(parts)]
            for part in parts:
                lines += [b"$%d" % len(part), part]
            connection.sendall(b"\r\n".join(lines) + b"\r\n")
            answer = connection.makefile("rb")
            head = answer.readline().decode().rstrip()
            if head.startswith("-"):
                raise OSError(head[1:])
            if head.startswith("$"):
                length = int(head[1:])
                return answer.read(length).decode() if length >= 0 else None
            return head[1:]


if __name__ == "__main__":
    store = connect(sys.argv[1])
    assert store.get("visits", "none") == "none"
    assert [store.add("visits", 2), store.add("visits", -1)] == [2, 1]
    store.put("name", "Zoë = 1")
    assert connect(sys.argv[1]).get("name") == "Zoë = 1", "another one sees it"
    print(f"store {sys.argv[1]}: ok")
