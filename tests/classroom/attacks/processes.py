"""Ending, stopping and outliving others."""

LIBC = (
    "import ctypes, os, resource, signal, sys, threading, time\n"
    "C = ctypes.CDLL(None, use_errno=True)\n"
)
WRONG = "got -1"
JUDGE = """
def above(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
"""


def does(statement, said, **more):
    """A function that does that, whatever comes of it, and answers wrong."""
    body = f"try:\n    {statement}\nexcept OSError as error: print(error)\nreturn -1"
    return {"cell": LIBC + more.pop("cell", ""), "body": body, "said": said, **more}


# The copy of a check, the process in which the cells ran, the judge: found while cells run
FOUND = "PARENT = os.getppid()\n"
DAEMON = """
def leave(pause):
    if C.fork() == 0:
        C.setsid()
        C.prctl(36, 0, 0, 0, 0)
        if C.fork() == 0:
            time.sleep(pause)
        os._exit(0)
"""

ATTACKS = {
    "a signal to the judge": does("os.kill(PARENT, 9)", "it sends a signal", cell=FOUND),
    "a signal to the judge, past Python": does("C.kill(PARENT, 9)", WRONG, cell=FOUND, quick=True),
    "a signal to a thread of the judge": does(
        "C.syscall(234, PARENT, PARENT, 9)", WRONG, cell=FOUND
    ),
    "the judge stopped": does("C.kill(PARENT, signal.SIGUSR1)", WRONG, cell=FOUND),
    "a signal to the group": does("os.killpg(0, 9)", "it sends a signal to processes"),
    "a signal to the group, past Python": does("C.killpg(0, 9)", WRONG),
    "it stops itself": does("C.raise_(19) if 0 else C.syscall(62, os.getpid(), 19)", WRONG),
    "it stops the process of its cells": does("C.kill(os.getppid(), 19)", WRONG),
    "the limits of the judge": does(
        "resource.prlimit(PARENT, resource.RLIMIT_CPU, (10**6, 10**6))",
        "it changes the limits of another process",
        cell=FOUND,
    ),
    "the limits of the judge, past Python": does(
        "C.prlimit(PARENT, resource.RLIMIT_CPU, (ctypes.c_ulong * 2)(10**6, 10**6), None)",
        WRONG,
        cell=FOUND,
    ),
    "the priority of the judge": does("C.setpriority(0, PARENT, 5)", WRONG, cell=FOUND),
    "the processors of the judge": does("os.sched_setaffinity(PARENT, [0])", WRONG, cell=FOUND),
    "another process": does("os.fork() or time.sleep(1000)", "it starts another process"),
    "another program": does("os.system('sleep 1000 &')", "it starts another program"),
    "another program, in place of Python": does(
        "os.execv('/bin/sleep', ['sleep', '1000'])", "it replaces Python by another program"
    ),
    "another program, past Python": does("C.system(b'sleep 1000 &')", WRONG),
    "twenty processes, past Python": does(
        "[C.fork() or time.sleep(1000) for _ in range(20)]", "expected"
    ),
    "twenty processes, while its cells run": {
        "cell": LIBC + "for _ in range(20):\n    if C.fork() == 0:\n        time.sleep(1000)\n"
        "        os._exit(0)\n",
        "body": "return -1",
        "said": WRONG,
        "quick": True,
    },
    "processes that leave": {
        "cell": LIBC + DAEMON,
        "body": "leave(1000)\ntime.sleep(0.1)\nreturn -1",
        "said": "expected",
    },
    "processes that leave while its cells run": {
        "cell": LIBC + DAEMON + "leave(1000)\ntime.sleep(0.2)\n",
        "body": "return -1",
        "said": WRONG,
        "quick": True,
    },
    "processes that follow one another": {
        "cell": LIBC + "if C.fork() == 0:\n    C.setsid()\n    C.alarm(20)\n"
        "    while True:\n        if C.fork():\n            os._exit(0)\n"
        "        C.alarm(20)\n        time.sleep(0.001)\n",
        "body": "return -1",
        "said": WRONG,
    },
    "a process that keeps writing when its parent has gone": {
        "cell": LIBC + "import gc\n"
        "line = next(thing for thing in gc.get_objects() if type(thing).__name__ == 'Line')\n"
        "if C.fork() == 0:\n    C.alarm(30)\n"
        "    while True: C.write(line.answers, b'x' * 65536, 65536)\n",
        "body": "return -1",
        "said": "it wrote on the line",
    },
    "everything closed": {
        "cell": LIBC,
        "body": "os.closerange(0, 256)\nreturn -1",
        "said": "it ended the Python process",
    },
    "the pipes closed, and no end": {
        "cell": LIBC,
        "body": "os.closerange(0, 256)\nwhile True:\n    try: time.sleep(1000)\n"
        "    except BaseException: pass",
        "said": "could not be interrupted",
    },
    "another namespace": {
        "cell": LIBC,
        "body": "if C.unshare(0x04000000) == 0: raise RuntimeError('REACHED a namespace')\n"
        "return -1",
        "said": WRONG,
    },
}
