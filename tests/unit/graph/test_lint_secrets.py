"""A file is a secret by what it holds, not by its name alone."""

from __future__ import annotations

import pytest

from buildgraph.graph.lint_secrets import what_secret

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"
RSA = b"text\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"
PGP = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIID\n"
PUBLIC = b"-----BEGIN PUBLIC KEY-----\nMIID\n"
AWS = b"key: AKIA2E0A8F3B244C9986\n"

SECRET = [
    ("id_rsa", KEY, "a private SSH key"),
    (".ssh/id_ed25519", KEY, "a private SSH key"),
    ("tls/server.key", RSA, "a private key"),
    ("server.pem", CERTIFICATE + RSA, "a private key"),
    ("signing.asc", PGP, "a private key"),
    ("sa.json", b'{"private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}', "a private key"),
    ("settings.yaml", AWS, "an AWS access key"),
    (".env", b"DEBUG=1\nDB_PASSWORD=hunter2x\n", "an environment file with credentials"),
    (".env.production", b"export API_KEY='abcdef0123'\n", "an environment file with credentials"),
    ("web/.env", b"STRIPE_SECRET_KEY=sk_live_abcdef\n", "an environment file with credentials"),
    (".npmrc", b"//r.example.com/:_authToken=npm_abcdef\n", "npm credentials"),
    (".git-credentials", b"https://user:token@git.example.com\n", "git credentials"),
    (".git/config", b"[http]\n\textraheader = AUTHORIZATION: basic eA==\n", "git credentials"),
    (".git/config", b"url = https://u:tok@git.example.com/x\n", "git credentials"),
    (".netrc", b"machine x login y password z\n", "passwords for hosts"),
    (".pypirc", b"[pypi]\nusername = a\npassword = b\n", "a package index's password"),
    (".aws/credentials", b"aws_secret_access_key = abcdefghij\n", "AWS credentials"),
    (".docker/config.json", b'{"auths": {"r": {"auth": "eDp5"}}}', "registry credentials"),
    (".kube/config", b"users:\n- user:\n    token: abcdefghijkl\n", "Kubernetes credentials"),
    ("kubeconfig.yaml", b"    client-key-data: abcdefghijkl\n", "Kubernetes credentials"),
]
HARMLESS = [
    ("id_rsa.pub", b"ssh-rsa AAAA me\n"),
    ("id_rsa", b"a file of that name\n"),
    ("ca.pem", CERTIFICATE),
    ("public.key", PUBLIC),
    (
        ".env",
        b"PORT=80\nTOKEN=\nTOKEN_TTL=600000\nTOKEN_ENDPOINT=https://a\nPUBLIC_URL=https://x.example.com\n",
    ),
    (".env", b"PASSWORD=changeme\nSECRET=${SECRET_FROM_CI}\nAPI_KEY=<your key>\n"),
    (".env.example", b"API_KEY=abcdef0123\n"),
    ("app.env.sample", b"API_KEY=abcdef0123\n"),
    (".npmrc", b"//r.example.com/:_authToken=${NPM_TOKEN}\nsave-exact=true\n"),
    (".git/config", b"[remote]\nurl = git@git.example.com:x/y.git\n"),
    (".docker/config.json", b'{"auths": {"r": {}}, "credsStore": "pass"}'),
    ("config.json", b'{"auth": "none"}'),
    ("tests/fixtures/key.pem", RSA),
    ("node_modules/x/test.key", RSA),
    ("docs/aws.yaml", b"AKIAIOSFODNN7EXAMPLE\n"),
    ("main.py", RSA),  # sources are not searched
    ("package.json", b'{"name": "x"}'),
]


@pytest.mark.parametrize(("path", "content", "words"), SECRET, ids=lambda v: str(v)[:20])
def test_secrets_are_found(path: str, content: bytes, words: str) -> None:
    assert what_secret(path, lambda: content) == words


@pytest.mark.parametrize(("path", "content"), HARMLESS, ids=lambda v: str(v)[:20])
def test_other_files_pass(path: str, content: bytes) -> None:
    assert what_secret(path, lambda: content) == ""


def test_most_files_are_not_read() -> None:
    def head() -> bytes:
        raise AssertionError("read")

    for path in ("main.go", "README.md", "data.bin", "test/x.pem", "a/.env.example", "logo.png"):
        assert what_secret(path, head) == ""
