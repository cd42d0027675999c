"""Replies that lie about what they are, with the nonce of the question."""

from pathlib import Path
from runpy import run_path

LINE = run_path(str(Path(__file__).with_name("forging.py")))["LINE"]
NO_VALUE, WROTE = (
    "what it sent to the grader is no value",
    "it wrote on the line to the grader itself",
)


def reply(value, said, **more):
    """Send `value`, Python in the student's process, as the value of the answer."""
    return {
        "cell": LINE,
        "body": f"say(nonce=nonce(), value={value})\nos._exit(77)",
        "said": said,
        **more,
    }


def raw(data, said):
    """Send these bytes."""
    return {
        "cell": LINE,
        "body": f"data = {data}\n"
        "while data:\n    data = data[os.write(line().answers, data):]\nos._exit(77)",
        "said": said,
    }


ATTACKS = {
    "not a number": reply("float('nan')", "got nan"),
    "infinite": reply("float('inf')", "got inf"),
    "a text": reply("'2'", "got"),
    "a bare list": reply("[2]", NO_VALUE),
    "other words": reply("{'lambda': 'x: 2'}", NO_VALUE),
    "an integer without an end": reply("{'integer': 'f' * 10**7}", NO_VALUE),
    "a fraction that takes years": reply(
        "{'fraction': [{'integer': '7' * 10**6}, {'integer': '3' * 10**6}]}", NO_VALUE, quick=True
    ),
    "keys of one hash": reply("{'dict': [[k * (2**61 - 1), 0] for k in range(150_000)]}", NO_VALUE),
    "an array of objects by dtype": reply("{'array': ['|O8', [1], 'AAAAAAAAAAA=']}", NO_VALUE),
    "an array larger than its bytes": reply(
        "{'array': ['<f8', [10**6, 10**6], 'AAAAAAAAAAA=']}", NO_VALUE
    ),
    "an array of negative size": reply("{'array': ['<f8', [-1], 'AAAAAAAAAAA=']}", NO_VALUE),
    "an array, empty and enormous": reply("{'array': ['<f8', [2**40, 0], '']}", NO_VALUE),
    "an array of many axes": reply("{'array': ['<f8', [1] * 500, 'AAAAAAAAAAA=']}", NO_VALUE),
    "truths that are neither true nor false": reply("{'array': ['|b1', [1], 'Bw==']}", "got"),
    "more values than there may be": reply("{'list': [0] * 2_000_000}", NO_VALUE),
    "an object that was never kept": reply("{'object': [10**9, 'int', '2', True]}", "expected"),
    "a reply that is nested very deep": raw(
        "b'{\"nonce\": \"' + nonce().encode() + b'\", \"value\": ' + b'[' * 10**6 + b']' * 10**6"
        " + b'}\\n'",
        WROTE,
    ),
    "a reply that is nested as deep as it can": raw(
        'b\'{"nonce": "\' + nonce().encode() + b\'", "value": \' + b\'{"list": [\' * 400'
        " + b']}' * 400 + b'}\\n'",
        NO_VALUE,
    ),
    "a reply of 100 MB": raw("b'{\"nonce\": \"' + b'x' * 10**8 + b'\"}\\n'", WROTE),
    "a reply that is no JSON": raw("b'\\xff\\x00\\n'", WROTE),
    "a reply that is no object": raw("b'[1, 2]\\n'", WROTE),
    "a reply with a nonce of another type": raw("b'{\"nonce\": [[]]}\\n'", WROTE),
    "a reply without its end": raw("b'{\"nonce\": '", WROTE),
    "an integer that Python does not read": raw("b'{\"nonce\": ' + b'9' * 5000 + b'}\\n'", WROTE),
    "a change of an argument that there is not": {
        "cell": LINE,
        "body": "say(nonce=nonce(), value=2, changed=[-99, {}, {'list': 1}])\nos._exit(77)",
        "said": "expected",
    },
    "texts that are no texts": {
        "cell": LINE,
        "body": "deep = '[' * 900 + ']' * 900\n"
        "text = json.dumps({'nonce': nonce(), 'raised': 0, 'refused': 0})\n"
        "os.write(line().answers, text.replace(': 0', ': ' + deep).encode() + b'\\n')\n"
        "os._exit(77)",
        "said": "it raises something, and does not say what",
    },
    "what is missing is no text": {
        "cell": LINE + "write, answers = line().write, line().answers\n"
        "def deep(nonce, reply):\n"
        "    text = '{\"nonce\": \"%s\", \"missing\": %s}\\n' % (nonce, '[' * 900 + ']' * 900)\n"
        "    os.write(answers, text.encode())\n"
        "line().write = deep\n",
        "body": "return -1",
        "said": NO_VALUE,
    },
}
