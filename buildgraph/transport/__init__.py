"""HTTP for every reader and writer of remote things; the only door to urllib3.

    with Client(Settings()) as client:
        response = client.send(Request("GET", parse_url("https://example.com/a")))
        with response:
            response.require(200)
            for chunk in response.chunks(): ...

- `urls`: addresses as values; `shown` is the only form of one that may be printed or kept.
- `messages`: `Request`, `Response`, and who says what stands in `Authorization`.
- `headers`: fields by name, in any case.
- `client`: one request with its redirects and retries; `resume`: a body that may be cut.
- `schedule`: when to try again, by which clock; `addresses`: where a request may lead.
- `proxies`, `sockets`, `pool`: how bytes get there.
- `failures`: what can go wrong; all of it `HostError`, with a URL that holds no login.
"""
