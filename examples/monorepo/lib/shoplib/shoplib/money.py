"""Amounts in cents, so that nothing is ever rounded twice."""


def parse(text: str) -> int:
    """Return cents for `12`, `12.3` or `12.34`."""
    whole, _, part = text.partition(".")
    return int(whole) * 100 + int((part + "00")[:2])


def show(cents: int) -> str:
    """Return cents as `12.34`."""
    return f"{cents // 100}.{cents % 100:02d}"


if __name__ == "__main__":
    for text in ("0.00", "12.34", "1.05", "999.99"):
        assert show(parse(text)) == text, text
    print("money: ok")
