"""The `perakit` command, also as `python -m perakit`."""

import os
import sys


def main() -> int:
    """Import the command, which takes seconds, and run it: an interrupt is one line there too."""
    _leave_the_folder()
    try:
        from perakit import cli
    except KeyboardInterrupt:
        print("\nperakit: interrupted", file=sys.stderr)
        return 130
    return cli.main()


def _leave_the_folder() -> None:
    """`python -m` looks for libraries in the folder where one is: a hand-in named array.py is none.

    Where perakit itself is found there, in a clone that is not installed, it has to stay.
    """
    here, home = os.getcwd(), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.path and sys.path[0] in ("", here) and home != here:
        del sys.path[0]


if __name__ == "__main__":
    sys.exit(main())
