"""System calls that a student's process has lost: a filter in the kernel (seccomp, Linux 3.17).

Landlock has no say over modes, owners and times of files, over limits and priorities of other
processes, over UDP, and before Linux 6.12 none over signals. And a process that can neither make
another nor leave its group is ended for certain, by one signal to the group.
Source: docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# By machine: AUDIT_ARCH of linux/audit.h, and which column below
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Numbers of asm/unistd_64.h (x86_64) and of asm-generic/unistd.h; None where there is no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # To be found no more: a session or a group of its own
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # Other programs, namespaces
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    # Other processes: signals, memory, limits, priorities
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    # Files: modes, owners, times, attributes
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    # The network, and ways around this filter
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    # Memory that no limit counts, or that stays when the process has ended
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "keyctl": (250, 219),
}
FORKS: dict[str, tuple[int | None, int | None]] = {"fork": (57, None), "vfork": (58, None)}
CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)
THREAD, NAMESPACES = 0x10000, 0x7E020000  # flags of clone
X32 = 0x40000000  # x86_64 has all calls twice

# An instruction is a code, two jumps and a number; fields are of struct seccomp_data
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST = 0, 4, 16
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def refuse(forks: bool) -> bool:
    """Refuse these calls in this process and in all that it starts; False where that cannot be.

    forks: whether it may still start processes; threads it always may.
    """
    found = MACHINES.get(os.uname().machine) if sys.platform == "linux" else None
    if found is None or struct.calcsize("P") != 8:
        return False
    code = program(*found, forks)
    instructions = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions))
    control = ctypes.CDLL(None).prctl
    no_new_privileges, set_filter, by_program = 38, 22, 2
    zero = ctypes.c_ulong(0)
    return bool(
        control(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero) == 0
        and control(set_filter, ctypes.c_ulong(by_program), filter) == 0
    )


def program(machine: int, column: int, forks: bool) -> bytes:
    """The filter as the kernel reads it."""
    no = REFUSE | errno.EPERM
    refused = REFUSED if forks else REFUSED | FORKS
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, no)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, no)]
    for numbers in refused.values():
        if (number := numbers[column]) is not None:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, no)]
    # Its flags are in memory, where a filter cannot look: the C library takes `clone` instead
    steps += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    # Limits of another process
    steps += [(EQUAL, 0, 4, PRLIMIT[column]), (LOAD, 0, 0, FIRST), (EQUAL, 0, 1, 0)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, no)]
    steps += [(EQUAL, 0, 5, CLONE[column]), (LOAD, 0, 0, FIRST), (ANY_BIT, 2, 0, NAMESPACES)]
    steps += [(ANY_BIT, 0, 1, 0xFFFFFFFF if forks else THREAD)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, no), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def drop_privileges() -> None:
    """Of root's powers keep one, to read the libraries: then limits are limits for root, too."""
    if sys.platform == "linux" and os.uname().machine in MACHINES and os.geteuid() == 0:
        number = 126 if os.uname().machine == "x86_64" else 91  # capset
        header = struct.pack("=Ii", 0x20080522, 0)  # of version 3, of this process
        for kept in (1 << 2, 0):  # CAP_DAC_READ_SEARCH, if root has it here
            sets = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
            if ctypes.CDLL(None).syscall(number, header, sets) == 0:
                return
