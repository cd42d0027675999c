"""Reading what is not the submission's: checks, solutions, other work, secrets, the judge.

@HIDDEN@, @OTHER@ and @OUTSIDE@ stand for real paths: nobody has to guess them. What was read is
raised, as REACHED.
"""

OUTSIDE = "it reads a file outside its own folder"
LIBC = "import ctypes, os\nC = ctypes.CDLL(None, use_errno=True)\n"
SHOW = "def reached(data):\n    raise RuntimeError(f'REACHED {data!r:.100}')\n"


def reads(expression, said=OUTSIDE, cell="", **more):
    """`expression` has what is read, or something empty."""
    body = f"data = {expression}\nreached(data) if data else None\nreturn -1"
    return {"cell": LIBC + SHOW + cell, "body": body, "said": said, **more}


# Past Python, where the audit hook does not see it; only the kernel does
SYSTEM = """
def read(path, where=-100):
    place = C.openat(where, os.fsencode(path), 0)
    data = ctypes.create_string_buffer(2**20)
    size = C.read(place, data, 2**20) if place >= 0 else 0
    return data.raw[:max(size, 0)]

def parent(name):
    return f"/proc/{os.getppid()}/{name}"

def judge(name):
    status = read(parent("status")).decode()
    above = status.partition("PPid:")[2].split()
    return f"/proc/{above[0]}/{name}" if above else "/none"

def copied(pid):
    here = ctypes.create_string_buffer(64)
    for line in read(f"/proc/{pid}/maps").decode(errors="replace").splitlines():
        if " r" not in line:
            continue
        start = int(line.split("-")[0], 16)
        local = (ctypes.c_void_p * 2)(ctypes.addressof(here), 64)
        remote = (ctypes.c_void_p * 2)(start, 64)
        if C.process_vm_readv(pid, local, 1, remote, 1, 0) > 0:
            return here.raw
    return b""
"""
WRONG = "got -1"

ATTACKS = {
    "the hidden checks, opened": reads("open('@HIDDEN@').read()", quick=True),
    "the hidden checks, by os.open": reads("os.read(os.open('@HIDDEN@', 0), 99)"),
    "the hidden checks, by io.open_code": reads("__import__('io').open_code('@HIDDEN@').read()"),
    "the hidden checks, from a folder's number": reads(
        "os.read(os.open('@HIDDEN@'.rpartition('/')[2], 0,"
        " dir_fd=os.open('@HIDDEN@'.rpartition('/')[0], os.O_PATH)), 99)"
    ),
    "the hidden checks, mapped by NumPy": reads("bytes(np.memmap('@HIDDEN@', mode='r')[:99])"),
    "the hidden checks, as numbers": reads("np.fromfile('@HIDDEN@', np.uint8)[:99].tobytes()"),
    "the hidden checks, by sqlite": reads(
        "__import__('sqlite3').connect('file:@HIDDEN@?mode=ro', uri=True)"
        ".execute('select * from sqlite_master').fetchall()",
        "it raises OperationalError",
    ),
    "the hidden checks, by linecache": reads("__import__('linecache').getline('@HIDDEN@', 1)"),
    "the hidden checks, imported": reads(
        "__import__('importlib.machinery').machinery.SourceFileLoader('x', '@HIDDEN@')"
        ".load_module()"
    ),
    "the hidden checks, past Python": reads("read('@HIDDEN@')", WRONG, SYSTEM, quick=True),
    "the hidden checks, past Python, from a folder's number": reads(
        "read('@HIDDEN@'.rpartition('/')[2], C.open(b'@OUTSIDE@', 0o10000000))",
        WRONG,
        SYSTEM,
    ),
    "the hidden checks, through a link in its own folder": reads(
        "[C.symlink(b'@HIDDEN@', b'link'), read('link')][1]", WRONG, SYSTEM
    ),
    "the hidden checks, by a second name in its own folder": reads(
        "[C.link(b'@HIDDEN@', b'second'), read('second')][1]", WRONG, SYSTEM
    ),
    "another submission": reads("open('@OTHER@').read()"),
    "another submission, past Python": reads("read('@OTHER@')", WRONG, SYSTEM),
    "names of others' files": reads("os.listdir('@OUTSIDE@')", "it raises PermissionError"),
    "names of others' files, by glob": reads("__import__('glob').glob('@OUTSIDE@/*')", WRONG),
    "the reference solutions, imported": reads(
        "__import__('perakit.classroom.assignment').classroom.assignment.assignments()"
    ),
    "the reference solutions, as data of the package": reads(
        "__import__('pkgutil').get_data('perakit', 'classroom/assignments/week1_lora.py')"
    ),
    "the reference solutions, past Python": reads(
        "read(os.path.join(os.path.dirname(__import__('perakit').__file__), 'classroom',"
        " 'assignments', 'week1_lora.py'))",
        WRONG,
        SYSTEM,
    ),
    "the grader's own modules": reads(
        "[name for name in __import__('sys').modules if 'classroom' in name or 'hypo' in name]",
        WRONG,
    ),
    "the checks, in the frames of its callers": reads(
        "[name for frame in __import__('inspect').stack()"
        " for name in (*frame.frame.f_locals, *frame.frame.f_globals)"
        " if name in ('expected', 'check', 'expect_equal', 'examples', 'hypothesis')]",
        WRONG,
    ),
    "the checks, among all objects": reads(
        "[thing for thing in __import__('gc').get_objects()"
        " if type(thing).__name__ in ('Check', 'SearchStrategy', 'Report', 'Assignment')]",
        WRONG,
    ),
    "the secrets of the environment": reads("os.environ.get('SECRET')", WRONG),
    "the secrets of the judge's environment": reads(
        "b'open sesame' in read(judge('environ')) and b'open sesame'",
        WRONG,
        SYSTEM,
    ),
    "the command line of the judge": reads("read(judge('cmdline'))", WRONG, SYSTEM),
    "the open files of the judge": reads(
        "read(judge('fd/0')) + read(judge('fdinfo/0'))", WRONG, SYSTEM
    ),
    "the memory of the judge": reads(
        "copied(int(judge('').split('/')[2] if judge('') != '/none' else os.getppid()))",
        WRONG,
        SYSTEM,
    ),
    "what its own process has open": reads(
        "[line for line in (os.readlink(f'/proc/self/fd/{k}') for k in os.listdir('/proc/self/fd'))"
        " if '@OUTSIDE@' in line]",
        "PermissionError",
    ),
    "the passwords of the machine": reads("open('/etc/shadow').read()"),
}
