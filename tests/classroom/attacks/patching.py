"""Changing the tools of the one who looks: libraries, builtins, signals, clocks, the guard."""

LIBC = "import ctypes, gc, os, signal, sys, time\nC = ctypes.CDLL(None, use_errno=True)\n"
SHOW = "def reached(data):\n    raise RuntimeError(f'REACHED {data!r:.100}')\n"
GUARD = """
def guard():
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "Guard")
"""
READ = """
def read(path):
    place = C.open(os.fsencode(path), 0)
    data = ctypes.create_string_buffer(2**20)
    size = C.read(place, data, 2**20) if place >= 0 else 0
    return data.raw[:max(size, 0)]
"""
WRONG = "got -1"

ATTACKS = {
    "Hypothesis": {
        "cell": "import hypothesis\n"
        "hypothesis.find = hypothesis.given = hypothesis.strategies.data = None\n"
        "hypothesis.core.find = lambda *_, **__: None\n",
        "body": "return -1",
        "said": WRONG,
    },
    "NumPy's comparisons": {
        "cell": "np.array_equal = np.allclose = np.all = lambda *_, **__: True\n"
        "np.asarray = np.array = lambda *_, **__: np.ones(1)\n"
        "np.abs = lambda *_: np.zeros(1)\n",
        "body": "return -1",
        "said": "expected",
        "quick": True,
    },
    "JSON": {
        "cell": "import json\njson.dumps = lambda *_, **__: '{\"value\": true}'\n",
        "body": "return -1",
        "said": "it wrote on the line",
    },
    "os.write": {
        "cell": "import os\nwrite = os.write\n"
        "os.write = lambda place, data: write(place, data.replace(b'-1', b'2')) and len(data)\n",
        "body": "return -1",
        "said": "expected",
    },
    "builtins": {
        "cell": "import builtins\n"
        "builtins.isinstance = lambda *_: True\nbuiltins.type = lambda *_: float\n"
        "builtins.len = lambda *_: 1\nbuiltins.hasattr = lambda *_: True\n",
        "body": "return -1",
        "said": "while its cells ran, it ended the process that runs it",
    },
    "the signals of the clock": {
        "cell": LIBC,
        "body": "signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGPROF, signal.SIG_IGN)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\nsignal.setitimer(signal.ITIMER_PROF, 0)\n"
        "while True: pass",
        "said": "could not be interrupted",
    },
    "signals blocked": {
        "cell": LIBC,
        "body": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\ntime.sleep(1000)",
        "said": "could not be interrupted",
    },
    "clocks that stand still": {
        "cell": LIBC + "time.process_time = time.monotonic = time.time = lambda: 0.0\n",
        "body": "while True: pass",
        "said": "it did not finish within 1 s",
    },
    "the exception of the clock, caught": {
        "body": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "said": "it did not finish",
    },
    "the guard at rest, and the hidden checks opened": {
        "cell": LIBC + SHOW + GUARD,
        "body": "guard().resting = True\nreached(open('@HIDDEN@').read())",
        "said": "PermissionError",
        "quick": True,
    },
    "the guard's places, and a file written": {
        "cell": LIBC + SHOW + GUARD,
        "body": "guard().places.folder = '/'\nopen('@OUTSIDE@/new', 'w').write('x')\nreturn -1",
        "said": "PermissionError",
    },
    "what was refused, forgotten": {
        "cell": LIBC + GUARD,
        "body": "try:\n    open('@HIDDEN@')\nexcept OSError: pass\nguard().seen = ''\nreturn -1",
        "said": WRONG,
    },
    "a hook of its own": {
        "cell": LIBC + "sys.addaudithook(lambda event, _: 1 / 0 if event == 'open' else None)\n",
        "body": "return -1",
        "said": WRONG,
    },
    "limits of memory, raised": {
        "cell": LIBC + "import resource\n",
        "body": "most = resource.RLIM_INFINITY\n"
        "try:\n    resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "except ValueError: pass\n"
        "return np.ones(2**29 + 7).sum()",
        "said": "it asks for more memory than a check may use",
    },
    "limits of writing, raised": {
        "cell": LIBC + SHOW + "import resource\n",
        "body": "most = resource.RLIM_INFINITY\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\nreached('a limit of root')",
        "said": "it raises ValueError",
    },
    "a trace on every line": {
        "cell": LIBC + "def trace(frame, event, _):\n"
        "    for name in ('expected', 'found', 'request'):\n"
        "        if 'value' in frame.f_locals:\n            frame.f_locals['value'] = 2\n"
        "    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(trace)\n",
        "body": "return -1",
        "said": "while its cells ran, it ended the process that runs it",
    },
    "no recursion": {
        "cell": LIBC,
        "body": "sys.setrecursionlimit(10**9)\ndef deep(n): return deep(n + 1)\nreturn deep(0)",
        "said": "it did not finish",
        "or": ("it ",),
    },
    "path, place and language": {
        "cell": LIBC + "import locale\nsys.path[:] = []\nsys.modules.clear()\nos.environ.clear()\n"
        "os.chdir('/')\nlocale.setlocale(locale.LC_ALL, 'C')\n",
        "body": "return -1",
        "said": "it ended the Python process",
    },
    "values kept from the messages": {
        "cell": "TABLE = {(1, 1, 1): 2}\n",
        "body": "return TABLE.get((m, n, rank)) or (rank * (m + n) if m < 100 else -1)",
        "said": "expected 131072 got -1",
        "earns": ["count"],
    },
    "functions that run at the end": {
        "cell": LIBC + "import atexit, threading\n"
        "atexit.register(lambda: os.write(1, b'x' * 10**9))\n"
        "threading._register_atexit(lambda: time.sleep(1000))\n"
        "class Last:\n    def __del__(self):\n        while True: pass\n"
        "KEPT = Last()\n",
        "body": "return -1",
        "said": WRONG,
    },
    "faults of its own": {
        "cell": LIBC + "import faulthandler\n",
        "body": "faulthandler.enable()\nfaulthandler.dump_traceback_later(0.1, exit=True)\n"
        "time.sleep(0.6)\nreturn -1",
        "said": "it ended the Python process",
    },
    "threads that are left": {
        "cell": LIBC + "import threading\n",
        "body": "for _ in range(20):\n"
        "    threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()\n"
        "return -1",
        "said": "it did not finish within 1 s",
    },
}
