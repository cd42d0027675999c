"""A student in a browser: JupyterLab in a driven Chromium; cells are filled by keyboard and run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
MINUTES = 3 * 60_000  # milliseconds: importing PyTorch on a busy machine
# The cells of the open notebook, as JupyterLab's own model has them
FIND = """text => {
  const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
  for (let k = 0; k < cells.length; k++)
    if (cells.get(k).type === "code" && cells.get(k).sharedModel.getSource().includes(text))
      return k;
  return -1;
}"""
SHOW = """async number => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = number;
  notebook.deselectAll();
  await notebook.scrollToItem(number, "center");
}"""
OUTPUT = """number => {
  const cell = window.jupyterapp.shell.currentWidget.content.model.cells.get(number);
  const said = [];
  for (let k = 0; k < cell.outputs.length; k++) {
    const output = cell.outputs.get(k).toJSON();
    said.push([output.text, output.evalue, (output.data || {})["text/plain"]].join(""));
  }
  return said.join("\\n");
}"""
BUSY = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return !(context?.session?.kernel?.status === "idle");
}"""


class Student:
    """What a student does with the notebook that is open."""

    def __init__(self, page, address):
        self.page, self.address = page, address

    def open(self, name):
        """Open a notebook of the folder, and wait for its kernel."""
        self.page.goto(f"{self.address}/lab/tree/{name}?reset", timeout=MINUTES)
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=MINUTES)
        self.wait()

    def wait(self):
        """Until nothing runs any more: the kernel is idle, and stays so for a moment."""
        for _ in range(2):
            self.page.wait_for_function(f"!({BUSY})()", timeout=MINUTES)
            self.page.wait_for_timeout(300)

    def run_all(self):
        """The menu's *Run All Cells*."""
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.wait_for_timeout(1000)
        self.wait()

    def cell(self, text):
        """The number of the first code cell with this text."""
        number = self.page.evaluate(FIND, text)
        assert number >= 0, f"no cell has {text!r}"
        return number

    def write(self, text, source):
        """Put `source` in the place of the cell that has `text`, by keyboard, and run it."""
        number = self.cell(text)
        self.page.evaluate(SHOW, number)
        active = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell.jp-mod-active .cm-content"
        self.page.locator(active).click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Shift+Enter")
        self.wait()
        return self.output(number)

    def run(self, text):
        """Run the cell that has `text`; what it says."""
        number = self.cell(text)
        self.page.evaluate(SHOW, number)
        self.page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
        self.wait()
        return self.output(number)

    def output(self, number):
        """What stands under a cell."""
        return self.page.evaluate(OUTPUT, number)

    def save(self):
        """Ctrl+S."""
        self.page.keyboard.press("Control+s")
        self.page.wait_for_function(
            "!window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=MINUTES
        )


@contextmanager
def student(folder: Path, home: Path):
    """A student in JupyterLab with this folder; home: for what Jupyter keeps."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}"]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    log = open(home / "log", "w")  # noqa: SIM115 - the server writes until it ends
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, home / "log")
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            yield Student(browser.new_page(viewport={"width": 1280, "height": 900}), address)
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def _wait_for(address, server, log):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api").close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError(log.read_text())
