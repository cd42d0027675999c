"""More than anybody wants: time, memory, output, depth."""

LIBC = "import ctypes, os, sys, time\n"
LATE, MEMORY = "it did not finish within 1 s", "it asks for more memory than a check may use"

ATTACKS = {
    "print without an end": {
        "body": "while True: print('x' * 10**6)",
        "said": "it prints or writes without end",
        "quick": True,
    },
    "errors without an end": {
        "cell": LIBC,
        "body": "while True: sys.stderr.write('x' * 10**6)",
        "said": LATE,
    },
    "print past Python": {
        "cell": LIBC,
        "body": "while True:\n    if os.write(1, b'x' * 10**6) == 0: break",
        "said": "it prints or writes without end",
    },
    "a line to the judge without an end": {
        "cell": LIBC + "import gc\n"
        "line = next(thing for thing in gc.get_objects() if type(thing).__name__ == 'Line')\n",
        "body": "while True: os.write(line.answers, b'x' * 10**6)",
        "said": "it wrote on the line to the grader itself",
    },
    "lines to the judge without an end": {
        "cell": LIBC + "import gc\n"
        "line = next(thing for thing in gc.get_objects() if type(thing).__name__ == 'Line')\n",
        "body": "while True: os.write(line.answers, b'\\n' * 10**6)",
        "said": "it wrote on the line to the grader itself",
    },
    "a list without an end": {
        "body": "x = []\nwhile True: x.append(bytearray(10**8))",
        "said": MEMORY,
    },
    "an array without room": {"body": "return np.ones((10**6, 10**6))", "said": MEMORY},
    "a result of 100 MB": {
        "body": "return np.ones(10**7)",
        "said": "returns what cannot be compared: it is larger than 8 MiB",
    },
    "a result of a million values": {
        "body": "return [0] * 10**6",
        "said": "returns what cannot be compared: it has more than 200,000 values",
    },
    "a result that holds itself": {
        "body": "x = []\nx.append(x)\nreturn x",
        "said": "returns what cannot be compared: it has 40 levels or more",
    },
    "a number that takes years": {
        "body": "return 3 ** 10**10",
        "said": "it did not finish",
    },
    "a text that takes years": {
        "cell": "import re\n",
        "body": "return re.match('(a+)+$', 'a' * 40 + 'b')",
        "said": "it did not finish",
    },
    "no end": {"body": "while True: pass", "said": LATE},
    "a sleep": {"cell": LIBC, "body": "time.sleep(1000)", "said": LATE},
    "recursion": {"body": "return trainable(m, n, rank)", "said": "it calls itself without end"},
    "an end at once": {"cell": LIBC, "body": "os._exit(0)", "said": "it ended the Python process"},
    "a crash": {
        "cell": LIBC,
        "body": "ctypes.string_at(0)",
        "said": "it made Python crash (SIGSEGV)",
    },
    "cells without an end": {
        "cell": "while True: pass\n",
        "body": "return -1",
        "said": "your file did not finish within 4 s",
        "loses": True,
    },
    "cells that end Python": {
        "cell": "import os\nos._exit(0)\n",
        "body": "return -1",
        "said": "while its cells ran, it ended the process that runs it",
        "loses": True,
    },
    "cells that exit": {
        "cell": "raise SystemExit(0)\n",
        "body": "return -1",
        "said": "a cell did not run: it calls exit()",
    },
    "cells that use all memory": {
        "cell": "x = bytearray(10**11)\n",
        "body": "return -1",
        "said": "a cell did not run: it asks for more memory",
    },
}
