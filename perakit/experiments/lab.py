"""Runs jobs: each once, several at a time.

It gives an estimate before, shows progress, and keeps whatever is finished.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from perakit.bench.measured import machine, plain
from perakit.errors import PerakitError
from perakit.experiments.jobs import Job, Ledger

LIGHT = 0.05  # seconds a unit of work, where no model is trained
CALIBRATION = 4  # steps; the first is slower than all others and is not counted
# A small run leaves a GPU idle between its launches, so that several share it
ON_GPU, ROOM = 14, 8 * 2**30  # runs at most; bytes of its memory that each may take


class Lab:
    """One experiment's bench: `run` returns the rows of jobs in their order.

    It computes those that the ledger does not have.
    """

    def __init__(self, ledger: Ledger, device: str) -> None:
        if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise PerakitError(f"device {device!r} is not available here: use --device cpu")
        self.ledger = ledger
        self.processes = _at_a_time(device)  # jobs that are timed run alone all the same
        self.pace: float | None = None
        self.pool: ProcessPoolExecutor | None = None  # one for all stages: it starts in seconds
        self.plan: list[dict[str, Any]] = []  # all rows that were asked for, in their order

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None

    def run(self, jobs: Sequence[Job], later: float = 0.0) -> list[dict[str, Any]]:
        """The rows of `jobs`; later: the work of stages that follow, for the estimate."""
        keys = [job.key for job in jobs]
        todo = {
            key: job for key, job in zip(keys, jobs, strict=True) if key not in self.ledger.known
        }
        for key, job in zip(keys, jobs, strict=True):
            if key not in todo:
                self.ledger.add(self.ledger.known[key] | {"label": job.label, "role": job.role})
                self._clear(key)  # a kill may have come after its row
        if todo:
            self._estimate(list(todo.values()), len(set(keys)) - len(todo), later)
            self._run(todo)
        rows = [
            self.ledger.known[key] | {"label": job.label, "role": job.role}
            for key, job in zip(keys, jobs, strict=True)
        ]
        for row in rows:
            self.ledger.add(row)  # also where two jobs of this plan are the same computation
        self.plan += rows
        return rows

    def _estimate(self, todo: list[Job], kept: int, later: float) -> None:
        """Say how long it will take, before it starts."""
        sample = next((job for job in todo if {"recipe", "model"} <= job.settings.keys()), None)
        if self.pace is None and sample:
            self.pace = _pace(sample)
        seconds = (self.pace or LIGHT) * (sum(job.work for job in todo) + later) / self.processes
        known = f", {kept} already there" if kept else ""
        print(
            f"perakit: {self.ledger.name}: {len(todo)} runs to do{known}; about {duration(seconds)}"
            f" on {self.processes}"
            f" process{'es' if self.processes > 1 else ''}{' for all stages' if later else ''}",
            file=sys.stderr,
        )

    def _run(self, todo: dict[str, Job]) -> None:
        pace = 0.5 if sys.stderr.isatty() else 30
        with tqdm(
            total=len(todo), desc=self.ledger.name, unit="run", mininterval=pace, leave=False
        ) as bar:
            for key, job in todo.items():
                if job.alone or self.processes == 1:
                    self._keep(key, job, _compute(key, job, self._folder(key)), bar)
            together = {
                key: job for key, job in todo.items() if not job.alone and self.processes > 1
            }
            if together:
                self._parallel(together, bar)

    def _parallel(self, todo: dict[str, Job], bar: Any) -> None:
        count = min(self.processes, len(todo))
        self.pool = pool = self.pool or ProcessPoolExecutor(
            self.processes,
            multiprocessing.get_context("spawn"),
            initializer=_worker,
        )
        waiting, running = list(todo.items()), dict[Future[dict[str, Any]], tuple[str, Job]]()
        # For NumPy's threads as well: processes with several threads each wait for one another
        threads = os.environ.get("OMP_NUM_THREADS")
        # The pool starts its processes with its first jobs, and they read it then
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            while waiting or running:
                # No more jobs than processes, so that an error stops the rest
                while waiting and len(running) < count:
                    key, job = waiting.pop(0)
                    running[pool.submit(_compute, key, job, self._folder(key))] = key, job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key, job = running.pop(future)
                    self._keep(key, job, future.result(), bar)
        except BrokenProcessPool as error:
            self.pool = None
            raise PerakitError(
                "a process of the experiment was killed: finished runs are kept, run the same"
                " command again"
            ) from error
        finally:
            del os.environ["OMP_NUM_THREADS"]
            os.environ.update({} if threads is None else {"OMP_NUM_THREADS": threads})

    def _folder(self, key: str) -> Path:
        return self.ledger.path.parent / ".running" / key

    def _keep(self, key: str, job: Job, row: dict[str, Any], bar: Any) -> None:
        self.ledger.add(row | {"label": job.label, "role": job.role})
        self._clear(key)
        bar.set_postfix_str(job.label, refresh=False)
        bar.update()

    def _clear(self, key: str) -> None:
        """Remove what an unfinished run has left of itself."""
        folder = self._folder(key)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others still run, or none has
            folder.parent.rmdir()


def _at_a_time(device: str) -> int:
    """Runs beside each other: one a core, on a GPU also as many as its free memory has room for."""
    cores = os.cpu_count() or 1
    if device == "cpu":
        return cores
    free, _ = torch.cuda.mem_get_info()
    return max(min(cores, free // ROOM, ON_GPU), 1)


def _compute(key: str, job: Job, folder: Path | None) -> dict[str, Any]:
    """The row of one job."""
    threads = torch.get_num_threads()
    # The same on every machine. Two processes with one thread beat one process with two.
    torch.set_num_threads(1)
    try:
        measured = plain(job.compute(job.settings, folder))
        where = machine("numpy")
    finally:
        torch.set_num_threads(threads)
    return {"key": key, **job.about, "measured": measured, "machine": where}


def _pace(job: Job) -> float:
    """Seconds of a training step, from a few of them."""
    from perakit.experiments.tuning import tune

    steps = {"steps": CALIBRATION, "eval_every": CALIBRATION, "eval_windows": 1, "warmup": 1}
    settings = dict(job.settings) | {
        "recipe": {**job.settings["recipe"], **steps},
        "judge": False,
        "interaction": None,
    }
    usual: dict[str, Any] = {
        "method": {"method": "lora", "rank": 8},
        "matched": False,
        "targets": "all-linear",
    }
    settings = (
        usual | {"text": "synthetic", "old": None, "limit": 100_000, "fraction": 1.0} | settings
    )
    began = time.perf_counter()
    _compute("", replace(job, compute=tune, settings=settings), None)
    return (time.perf_counter() - began) / (CALIBRATION + 1)


def _worker() -> None:
    """End this process with the one that started it, and at once when a user interrupts both."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a job in the background ignores it
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    def watch() -> None:
        parent.join()  # it returns as soon as that process has ended, even if it was killed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
