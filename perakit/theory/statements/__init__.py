"""What is claimed, a chapter a file; importing it fills `perakit.theory.claims` in this order."""

from importlib import import_module

CHAPTERS = (
    "definitions",
    "ranks",
    "dimensions",
    "symmetries",
    "theorem",
    "relatives",
    "peers",
    "practice",
)

for chapter in CHAPTERS:
    import_module(f"{__name__}.{chapter}")
