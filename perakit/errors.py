"""The one error that perakit raises on purpose."""


class PerakitError(Exception):
    """Something a user can cause and mend: says what is wrong, with the offending value, and what to do."""
