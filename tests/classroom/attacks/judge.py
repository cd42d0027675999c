"""The judge of the attacks, a process of its own, since some of them would kill it.

    python judge.py < task.json

task: `paths` to grade in turn; `hidden` checks; `watched`, a folder that nobody may change; `mark`,
in the environment of every process that a submission starts; `kernel`, False to do without what
the kernel refuses. For each path one line of JSON: the report, and what was left behind.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from perakit.classroom import grading, process
from perakit.classroom.report import marks

CHECKS = ("seeded", "count", "forward_factored", "merged")
WITHOUT_KERNEL = """\
import perakit.classroom.guard as guard
guard.landlock = lambda places: False
guard.refuse = lambda forks: False
guard.drop_privileges = lambda: None
import perakit.classroom.student as student
student.refuse = lambda forks: False
"""


def shorten():
    """Fewer checks, and less patience: an attack that waits for a limit should not take long."""
    whose = grading.assignment_of

    def some(cells, given=None):
        task = whose(cells, given)
        checks = [check for check in task.checks if check.id in CHECKS]
        return replace(task, checks=[replace(check, seconds=1.0, count=20) for check in checks])

    grading.assignment_of = some
    process.GRACE, process.RUNNING = 1.0, 4.0


def seen(folder):
    """All that can be said of the files in a folder."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        about = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        times = () if path.is_dir() else (about.st_mtime_ns,)
        found[str(path)] = (about.st_mode, about.st_uid, about.st_nlink, *times, data)
    return found


def restore(folder, before):
    """The folder as it was, for the next attack."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
    for name, (mode, *_, data) in before.items():
        if Path(name) != folder:
            Path(name).write_bytes(data)
            os.chmod(name, mode & 0o777)


def strays(mark):
    """The processes that bear the mark and still run, but for this one; they are killed."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(entry.name)
            mine = mark in (entry / "environ").read_bytes()
            state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if mine and pid != os.getpid() and state not in b"ZX":
                found.append(pid)
                os.kill(pid, signal.SIGKILL)
    return found


def limits():
    """What another process could change of this one."""
    about = [resource.getrlimit(which) for which in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)]
    return [*about, os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))]


def main():
    task = json.load(sys.stdin)
    shorten()
    if not task["kernel"]:
        start = "from perakit.classroom.student import main\n"
        process.BOOT = process.BOOT.replace(start, WITHOUT_KERNEL + start)
    watched, temporary = Path(task["watched"]), Path(os.environ["TMPDIR"])
    before = seen(watched), limits()
    for path in map(os.fsencode, task["paths"]):
        start = time.monotonic()
        (report,) = grading.grade_all([os.fsdecode(path)], hidden=task["hidden"])
        line = {
            "report": report.to_dict(),
            "text": str(report),
            "csv": marks([report]),
            "seconds": time.monotonic() - start,
            "left": strays(task["mark"].encode()),
            "changed": (seen(watched), limits()) != before,
            "temporary": sorted(map(str, temporary.iterdir())),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        print(json.dumps(line), flush=True)
        if seen(watched) != before[0]:
            restore(watched, before[0])
        before = seen(watched), limits()


main()
