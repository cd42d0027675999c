"""Values that say what they like of themselves, and objects that are no values."""

VALUE = "what it got"

ATTACKS = {
    "equal to everything": {
        "cell": "class Liar:\n"
        "    __hash__ = None\n"
        "    __eq__ = __le__ = __ge__ = __lt__ = lambda *_: True\n"
        "    __ne__ = __gt__ = lambda *_: False\n"
        "    __sub__ = __rsub__ = __abs__ = lambda self, *_: self\n",
        "body": "return Liar()",
        "said": "got Liar",
    },
    "an array when asked": {
        "cell": "class Liar:\n"
        "    shape, dtype, ndim = (), np.dtype(float), 0\n"
        "    def __array__(self, dtype=None, copy=None):\n"
        "        import inspect\n"
        "        for frame in inspect.stack():\n"
        "            if 'expected' in frame.frame.f_locals:\n"
        "                return np.asarray(frame.frame.f_locals['expected'])\n"
        "        return np.asarray(-1.0)\n",
        "body": "return Liar()",
        "said": "got -1",
        "quick": True,
    },
    "an array with comparisons of its own": {
        "cell": "class Liar(np.ndarray):\n"
        "    def __array_ufunc__(self, ufunc, method, *inputs, **options):\n"
        "        return np.zeros(()) if ufunc is np.subtract else np.True_\n"
        "    __eq__ = __le__ = lambda *_: np.True_\n",
        "body": "return np.array(-1.0).view(Liar)",
        "said": "got -1",
    },
    "a number with comparisons of its own": {
        "cell": "class Liar(float):\n"
        "    __eq__ = __le__ = __ge__ = lambda *_: True\n"
        "    __rsub__ = __sub__ = lambda *_: 0.0\n"
        "    __float__ = lambda _: 2.0\n",
        "body": "return Liar(-1.0)",
        "said": "expected",
    },
    "an integer that is something else each time": {
        "cell": "class Liar(int):\n"
        "    def __int__(self):\n        return -1\n"
        "    __index__ = __float__ = __int__\n",
        "body": "return Liar(7)",
        "said": "expected",
    },
    "a class that is none": {
        "cell": "class Liar:\n    __class__ = property(lambda _: float)\n",
        "body": "return Liar()",
        "said": "got Liar",
    },
    "a list of other items each time": {
        "cell": "class Liar(list):\n"
        "    __iter__ = lambda _: iter([-1])\n    __len__ = lambda _: 1\n",
        "body": "return Liar([2])",
        "said": "expected",
    },
    "a generator": {"body": "yield rank * (m + n)", "said": "got generator"},
    "a text that prints without an end": {
        "cell": "class Liar:\n    def __repr__(self):\n        while True: pass\n",
        "body": "return Liar()",
        "said": "it did not finish within 1 s",
    },
    "a text of 100 MB": {
        "cell": "class Liar:\n    __repr__ = lambda _: 'PASS ' * 20_000_000\n",
        "body": "return Liar()",
        "said": "got Liar PASS PASS",
    },
    "a text that raises": {
        "cell": "class Liar:\n    def __repr__(self):\n        raise SystemExit('PASS')\n",
        "body": "return Liar()",
        "said": "it calls exit()",
    },
    "attributes without an end": {
        "cell": "class Liar:\n    def __getattr__(self, name):\n        return Liar()\n"
        "    def __call__(self, *_, **__):\n        return Liar()\n",
        "body": "return Liar()",
        "said": "got Liar",
    },
    "a type with a name for terminals": {
        "body": "return type('\\x1b[2J\\nPASS 1/1 ', (), {})()",
        "said": "got \\x1b[2J\\nPASS 1/1",
    },
    "an error whose text raises": {
        "cell": "class Liar(Exception):\n    def __str__(self):\n        raise Liar\n",
        "body": "raise Liar",
        "said": "it raises Liar",
    },
    "an error whose text never ends": {
        "cell": "class Liar(Exception):\n    def __str__(self):\n        while True: pass\n",
        "body": "raise Liar",
        "said": "it did not finish within 1 s",
    },
    "an error of 100 MB": {
        "body": "raise ValueError('\\x1b[2J' * 25_000_000)",
        "said": "it raises ValueError: \\x1b[2J\\x1b[2J",
    },
    "an error that is a surrogate": {
        "body": "raise ValueError('\\ud800\\nPASS 1/1 r(m+n) numbers are trained')",
        "said": "\\ud800\\nPASS 1/1 r(m+n)",
    },
    "an error that is its own cause": {
        "body": "error = ValueError('x')\nerror.__cause__ = error.__context__ = error\nraise error",
        "said": "it raises ValueError: x",
    },
    "it seems untouched": {
        "body": "raise NotImplementedError",
        "said": "trainable is not written yet",
    },
    "rows that do not fit": {
        "body": "return [[1], [1, 2], {}, [[[]]]]",
        "said": "expected",
    },
    "a column of a million": {
        "body": "return np.ones((10**6, 1))",
        "said": "of shape (1000000, 1)",
    },
}
