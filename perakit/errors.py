"""The one error that perakit raises on purpose."""


class PerakitError(Exception):
    """Something a user can cause and mend.

    Says what is wrong, with the offending value, and what to do.
    """


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
