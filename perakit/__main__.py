"""The `perakit` command, also as `python -m perakit`."""

import sys


def main() -> int:
    """Import the command, which takes seconds, and run it: an interrupt is one line there too."""
    try:
        from perakit import cli
    except KeyboardInterrupt:
        print("\nperakit: interrupted", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
