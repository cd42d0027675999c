"""An answer that stays closed until somebody opens it, also after *Run All Cells*."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def folded(title: str = "Our answer") -> Iterator[None]:
    """Within the block, what is printed and drawn goes into a fold that opens with a click.

    JupyterLab opens a hidden output as soon as its cell runs; a fold stays closed.
    title: what the closed fold says. Where there is no notebook the block prints as ever.

    >>> with folded():
    ...     print("h = 2")
    h = 2
    """
    from IPython.core.getipython import get_ipython

    if get_ipython() is None:
        yield
        return
    from IPython.display import HTML, display
    from IPython.utils.capture import capture_output

    with capture_output() as captured:
        yield
        if "matplotlib.pyplot" in sys.modules:  # now, and not at the end of the cell
            sys.modules["matplotlib.pyplot"].show()
    inside = [f"<pre>{html.escape(captured.stdout)}</pre>"] if captured.stdout else []
    for output in captured.outputs:
        data = output.data
        if "image/png" in data:
            source = f"data:image/png;base64,{data['image/png'].strip()}"
            inside.append(f'<img alt="Figure of the answer" src="{source}">')
        else:
            plain = f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"
            inside.append(data.get("text/html", plain))
    fold = f"<details><summary>{html.escape(title)}</summary>{''.join(inside)}</details>"
    display(HTML(fold))
