"""The one error that perakit raises on purpose, and text that is safe to show."""

LONGEST = 600  # characters of a message


class PerakitError(Exception):
    """Something a user can cause and mend.

    Says what is wrong, with the offending value, and what to do. Its text is safe to print, and has
    at most 600 characters: of a longer one the middle is left out.
    """

    def __init__(self, message: object = "") -> None:
        text = printable(str(message))
        if len(text) > LONGEST:
            left_out, end = " [...] ", LONGEST // 3  # the end has the remedy
            text = text[: LONGEST - end - len(left_out)] + left_out + text[-end:]
        super().__init__(text)


def printable(text: str) -> str:
    r"""`text` with every character that is no letter, sign or line break as its escape, like \x1b.

    So a name from a file can neither move the cursor of a terminal nor be impossible to write.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def short(value: object) -> str:
    """A value as a message shows it.

    In full, unless that is a page, or a number too long for Python to print.
    """
    try:
        text = repr(value)
    except ValueError:
        return (
            f"an integer of {value.bit_length():,} bits"
            if isinstance(value, int)
            else f"a {type(value).__name__}"
        )
    return text if len(text) <= 80 else f"{text[:60]} ... ({len(text):,} characters)"


def listed(names: list[str]) -> str:
    """Some names as a message shows them."""
    return ", ".join(map(short, names[:4])) + (
        f" and {len(names) - 4} more" if len(names) > 4 else ""
    )
