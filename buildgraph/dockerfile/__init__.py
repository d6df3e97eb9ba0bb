"""The Dockerfile language as data: lexing, parsing, expansion, checks. Pure."""
