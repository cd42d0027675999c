"""`python -m perakit` is the `perakit` command."""

import sys

from perakit.cli import main

sys.exit(main())
