"""Whatever is measured by a clock or a memory counter; nothing is measured on import.

`perakit bench` (command.py): `contenders` are who is measured on a layer, `models` the same in a
whole GPT-2, `timing` the clock, `memory` the bytes. `ratios` compare what was measured, `verdicts`
hold it against what was promised, `figures` and `report` show it.

By themselves: `python -m perakit.bench.theory docs` (the theory toolkit),
`python -m perakit.bench.quantising docs` (4-bit bases), `python -m perakit.bench.export docs`
(export and swapping). `measured` is what all numbers carry: the machine, the versions, the seed.
"""
