"""Changing files that are another's, and filling its own folder."""

CHANGES = "it changes a file outside its own folder"
LIBC = "import ctypes, os, socket, stat\nC = ctypes.CDLL(None, use_errno=True)\n"
WRONG = "got -1"


def does(statement, said=CHANGES, **more):
    """A function that does that, whatever comes of it, and answers wrong."""
    body = f"try:\n    {statement}\nexcept OSError as error: print(error)\nreturn -1"
    return {"cell": LIBC, "body": body, "said": said, **more}


def past(call, **more):
    """The same past Python: the audit hook does not see it."""
    return {"cell": LIBC, "body": f"{call}\nreturn -1", "said": WRONG, **more}


FULL = "it fills its folder: more than 128 MiB, or than 1,000 files"

ATTACKS = {
    "a new file": does("open('@OUTSIDE@/new', 'w')"),
    "another submission, emptied": does("open('@OTHER@', 'w')", quick=True),
    "a file by a folder's number": does(
        "os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=os.open('@OUTSIDE@', os.O_PATH))",
        "outside its own folder",
    ),
    "a pipe": does("os.mkfifo('@OUTSIDE@/new')", WRONG),
    "a device": does("os.mknod('@OUTSIDE@/new', stat.S_IFREG | 0o600)", WRONG),
    "a link": does("os.symlink('/etc', '@OUTSIDE@/new')"),
    "a second name": does("os.link('@OTHER@', '@OUTSIDE@/new')"),
    "another name": does("os.rename('@OTHER@', '@OUTSIDE@/new')"),
    "another's mode": does("os.chmod('@OTHER@', 0)"),
    "another's times": does("os.utime('@OTHER@', (0, 0))"),
    "past Python: a new file": past("C.creat(b'@OUTSIDE@/new', 0o600)"),
    "past Python: another submission, emptied": past("C.truncate(b'@OTHER@', 0)", quick=True),
    "past Python: another submission, removed": past("C.unlink(b'@OTHER@')"),
    "past Python: another name": past("C.rename(b'@OTHER@', b'@OUTSIDE@/new')"),
    "past Python: another's mode": past("C.chmod(b'@OTHER@', 0)", quick=True),
    "past Python: another's owner": past("C.chown(b'@OTHER@', 12345, 12345)"),
    "past Python: another's times": past("C.utimensat(-100, b'@OTHER@', bytes(32), 0)"),
    "past Python: a link": past("C.symlink(b'/etc', b'@OUTSIDE@/new')"),
    "past Python: a second name": past("C.link(b'@OTHER@', b'@OUTSIDE@/new')"),
    "past Python: a pipe": past("C.mkfifo(b'@OUTSIDE@/new', 0o600)"),
    "its folder exchanged for a link": past(
        "folder = os.environ['TMPDIR'].encode()\n"
        "C.unlink(folder + b'/printed')\nC.rmdir(folder)\nC.symlink(b'@OUTSIDE@', folder)",
    ),
    "many files": {
        "body": "k = 0\nwhile True:\n    open(f'{k}', 'w').close()\n    k += 1",
        "cell": LIBC,
        "said": FULL,
    },
    "many large files": {
        "body": "for k in range(20):\n    open(f'{k}', 'wb').write(bytes(2**24 - 1))\n"
        "__import__('time').sleep(0.9)\nreturn -1",
        "cell": LIBC,
        "said": FULL,
    },
    "a folder so deep that none can leave": {
        "body": "for k in range(1800):\n    os.mkdir('d')\n    os.chdir('d')\nreturn -1",
        "cell": LIBC,
        "said": FULL,
        # Where it has ended before the judge looks, or meets its folder while that is emptied
        "or": (WRONG, "it raises PermissionError"),
        "quick": True,
    },
    "folders that none may enter": {
        "body": "try:\n    os.mkdir('-rf', 0)\n    open('a\\nb', 'w')\n"
        "    os.makedirs('a/b', mode=0)\nexcept OSError: pass\nreturn -1",
        "cell": LIBC,
        "said": WRONG,
    },
    "a message to the network": does(
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "it uses the network",
    ),
    "past Python: a door to the network": past(
        "place = C.socket(2, 2, 0)\nif place >= 0: raise RuntimeError('REACHED the network')"
    ),
    "past Python: memory that stays": past(
        "place = C.shmget(0, 4096, 0o1600)\n"
        "if place >= 0:\n"
        "    C.shmctl(place, 0, 0)\n    raise RuntimeError('REACHED shared memory')"
    ),
}
