"""A derivation: steps of a sentence and an expression, as LaTeX in a notebook, else as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

Expr = Any  # a sympy expression or matrix: annotations must not import sympy


@dataclass(frozen=True)
class Step:
    """One line of a derivation: a sentence, its sympy expression, and whether what it claims is so.

    holds: None where the step defines or shows something and claims nothing.
    """

    text: str
    expression: Expr
    holds: bool | None = None


@dataclass(frozen=True, repr=False)
class Derivation:
    """Steps from a rule to a statement about it: LaTeX in a notebook, plain text when printed.

    title, source: what is derived, and the equation that states it. holds: whether every claim
    among the steps is so.
    """

    title: str
    source: str
    steps: tuple[Step, ...]

    @property
    def holds(self) -> bool:
        """True if every claim was found to be exactly so."""
        return all(step.holds is not False for step in self.steps)

    def _repr_latex_(self) -> str:
        head = rf"&\textbf{{{_escape(self.title)}}}\quad\text{{({_escape(self.source)})}}"
        return (
            "$$\\begin{aligned}\n"
            + " \\\\[6pt]\n".join([head, *map(_latex_step, self.steps)])
            + "\n\\end{aligned}$$"
        )

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        verdict = (
            "Holds: every claim (✓) is exactly so."
            if self.holds
            else "DOES NOT HOLD: see the steps marked ✗."
        )
        steps = (_plain_step(number, step) for number, step in enumerate(self.steps, start=1))
        return "\n".join([self.title, f"({self.source})", *steps, verdict])


def equation(name: str, value: Any) -> Expr:
    """`name` = `value`, left as it stands."""
    import sympy

    return sympy.Eq(sympy.Symbol(name), value, evaluate=False)


def zero(text: str, difference: np.ndarray) -> Step:
    """A claim: every entry of `difference` is zero. Shows the first that is not."""
    left = first_nonzero(difference)
    return Step(text, equation(r"\mathrm{difference}", left), left == 0)


def first_nonzero(difference: np.ndarray) -> Expr:
    """The first entry that is not zero as a rational function, multiplied out; 0 if none is."""
    return next((entry for entry in map(_normal, difference.flat) if entry != 0), 0)


def _normal(entry: Expr) -> Expr:
    """Zero if `entry` is the zero rational function, else the entry multiplied out."""
    import sympy

    expanded = sympy.expand(entry)
    numerator, _ = sympy.fraction(sympy.together(expanded))  # itself, where there is no denominator
    return sympy.Integer(0) if sympy.expand(numerator) == 0 else expanded


def _latex_step(step: Step) -> str:
    import sympy

    mark = {None: "", True: r"\quad\checkmark", False: r"\quad\textbf{fails}"}[step.holds]
    return (
        rf"&\text{{{_escape(step.text)}}} \\"
        + "\n"
        + rf"&\qquad {sympy.latex(step.expression)}{mark}"
    )


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&").replace("%", r"\%").replace("#", r"\#")


def _plain_step(number: int, step: Step) -> str:
    import sympy

    left, right = (plain(side) for side in step.expression.args)
    shown = sympy.pretty(sympy.Eq(left, right, evaluate=False), use_unicode=True, wrap_line=False)
    mark = {None: "", True: "  ✓", False: "  ✗"}[step.holds]
    return f"\n{number}. {step.text}{mark}\n" + "\n".join(
        f"   {line}".rstrip() for line in shown.splitlines()
    )


def plain(expression: Expr) -> Expr:
    """The expression with symbols named for a terminal: b₁₂ in place of b_{1,2}."""
    import sympy

    return expression.xreplace({s: sympy.Symbol(_plain(s.name)) for s in expression.free_symbols})


_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def _plain(name: str) -> str:
    r"""The name of a symbol as text: b_{1,2} as b₁₂ (b₁,₁₂ from ten on), \Delta W as ΔW."""
    for latex, text in (
        (r"\Delta ", "Δ"),
        (r"\partial ", "∂"),
        (r"\varphi", "φ"),
        (r"\dim\ker", "dim ker"),
        ("\\", ""),
    ):
        name = name.replace(latex, text)
    name = re.sub(r"mathrm\{(\w+)\}", r"\1", name)
    return re.sub(r"_\{([\d,]+)\}", lambda found: _subscript(found[1]), name)


def _subscript(indices: str) -> str:
    short = all(len(index) == 1 for index in indices.split(","))
    return (indices.replace(",", "") if short else indices).translate(_SUBSCRIPTS)
