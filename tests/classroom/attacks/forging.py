"""Writing to the judge oneself: answers with every kind of nonce, too early, twice, to others."""

# The line to the judge, found as nobody should; the nonces of the call and of the check
LINE = """
import gc, json, os, sys, threading, time

def line():
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "Line")

def requests():
    found, frame = [], sys._getframe()
    while frame is not None:
        for name in ("request", "first"):
            request = frame.f_locals.get(name)
            found += [request] if isinstance(request, dict) and "nonce" in request else []
        frame = frame.f_back
    return found

def nonce():
    return requests()[0]["nonce"]

def begun():
    return requests()[-2]["nonce"]

def say(**message):
    os.write(line().answers, json.dumps(message).encode() + b"\\n")

OLD = []
"""
WROTE = "it wrote on the line to the grader itself"

ATTACKS = {
    "an answer of its own": {
        "cell": LINE,
        "body": "say(nonce=nonce(), value=rank * (m + n))\nreturn -1",
        "earns": ["large"],  # its own answer was right, and nobody else's
        "said": WROTE,
        "quick": True,
    },
    "a guessed nonce": {
        "cell": LINE,
        "body": "say(nonce='0' * 16, value=rank * (m + n))\nreturn -1",
        "said": WROTE,
    },
    "a replayed nonce": {
        "cell": LINE,
        "body": "OLD.append(nonce())\nsay(nonce=OLD[0], value=2) if len(OLD) > 1 else None\n"
        "return rank * (m + n)",
        "earns": ["large"],  # its own answer was right, and nobody else's
        "said": WROTE,
    },
    "two answers in one breath": {
        "cell": LINE,
        "body": "text = json.dumps({'nonce': nonce(), 'value': rank * (m + n)}).encode() + b'\\n'\n"
        "os.write(line().answers, text + text)\nos._exit(77)",
        "earns": ["large"],  # its own answer was right, and nobody else's
        "said": WROTE,
    },
    "an answer before the question": {
        "cell": LINE + "say(nonce='', value=2)\n",
        "body": "return rank * (m + n)",
        "said": f"while its cells ran, {WROTE}",
    },
    "the cells' own report": {
        "cell": LINE + "say(nonce=nonce(), problems=[], late=False)\ntime.sleep(0.1)\n",
        "body": "return -1",
        "said": WROTE,
    },
    "an end of the check": {
        "cell": LINE,
        "body": "say(nonce=begun(), ended='')\nreturn rank * (m + n)",
        "said": "it ended the process that runs it",
    },
    "an end with a text of its own": {
        "cell": LINE,
        "body": "say(nonce=begun(), ended='\\n\\x1b[2JPASS 1/1 r(m+n)')\nreturn rank * (m + n)",
        "said": "\\n\\x1b[2JPASS 1/1 r(m+n)",
    },
    "late, in the words of the process": {
        "cell": LINE,
        "body": "say(nonce=nonce(), late=True)\nos._exit(77)",
        "said": "it did not finish within 1 s",
    },
    "an error without a word": {
        "cell": LINE,
        "body": "say(nonce=nonce(), raised='')\nos._exit(77)",
        "said": "it raises something, and does not say what",
    },
    "not written, in the words of the process": {
        "cell": LINE,
        "body": "say(nonce=nonce(), unwritten='\\x1b[31m' * 100)\nos._exit(77)",
        "said": "is not written yet",
    },
    "no value and no error": {
        "cell": LINE,
        "body": "say(nonce=nonce())\nos._exit(77)",
        "said": "what it sent to the grader is no value",
    },
    "answers left in the pipe for the next check": {
        "cell": LINE,
        "body": "for _ in range(50):\n    say(nonce=nonce(), value=True)\nreturn -1",
        "said": "got True",
    },
    "a copy that stays for the next check": {
        "cell": LINE,
        "body": "say(nonce=begun(), ended='it is done')\n"
        "while True:\n"
        "    request = line().read()\n"
        "    say(nonce=request['nonce'], missing='', value=True, ended='')\n",
        "said": "it is done",
    },
    "a loop of its own that reads and answers": {
        "cell": LINE,
        "body": "say(nonce=nonce(), value=rank * (m + n))\n"
        "while True:\n"
        "    request = line().read()\n"
        "    m, n, rank = request.get('arguments', {'list': [1, 1, 1]})['list']\n"
        "    say(nonce=request['nonce'], value=0, ended='')\n",
        "earns": ["large"],  # its own answer was right, and nobody else's
        "said": "expected",
    },
    "a thread that writes all the time": {
        "cell": LINE + "def babble():\n    while True:\n        say(nonce='', value=2)\n"
        "        time.sleep(0.01)\n"
        "threading.Thread(target=babble, daemon=True).start()\n",
        "body": "return -1",
        "said": WROTE,
    },
    "every answer is changed on its way": {
        "cell": LINE + "write = line().write\n"
        "line().write = lambda nonce, reply: write(nonce, {**reply, 'value': True})\n",
        "body": "return -1",
        "said": "got True",
    },
    "its imports are left out": {
        "cell": "import colorsys\n" + LINE + "frame = sys._getframe()\n"
        "while frame is not None:\n"
        "    for value in frame.f_locals.values():\n"
        "        if isinstance(value, dict) and 'imports' in value and 'late' in value:\n"
        "            value['imports'] = []\n"
        "    frame = frame.f_back\n",
        "body": "return -1",
        "said": "it imports colorsys, gc, json, os, sys",
    },
    "functions of the student's process replaced": {
        "cell": LINE + "space = next(thing for thing in gc.get_objects()\n"
        "             if isinstance(thing, dict) and 'shadowed' in thing and 'Room' in thing)\n"
        "space['missing'] = lambda *_: ''\n"
        "space['limited'] = lambda *_: __import__('contextlib').nullcontext()\n"
        "space['Room'].answer = lambda room, request, ask: {'value': None}\n"
        "del trainable\n",
        "body": "return -1",
        "said": "got None: is a `return` missing?",
    },
}
