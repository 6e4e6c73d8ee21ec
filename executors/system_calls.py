"""Which system calls a sandboxed child may not make, as a program for seccomp(2). Pure.

Files are Landlock's part, which leaves owners, modes and attributes alone: those calls are refused here. So are sockets where there is to be
no network, further programs, processes and signals where there are to be none, and in every case what reaches out of a sandbox by other
means: tracing, mounts, keys, shared memory that stays, the kernel's own machinery.
"""

from __future__ import annotations

import struct
import sys

ALLOW, REFUSE, KILL, NOT_THERE = 0x7FFF0000, 0x00050001, 0x80000000, 0x00050026  # EPERM and ENOSYS in the two with an errno
PR_SET_PDEATHSIG, CLONE_THREAD = 1, 0x00010000
X32 = 0x40000000  # the other numbering of system calls on x86_64
EQUAL, AT_LEAST, ANY_BIT = 0x15, 0x35, 0x45
NUMBER, MACHINE, FIRST_ARGUMENT, THIRD_ARGUMENT = 0, 4, 16, 32  # offsets in what the kernel hands to the program
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH

# Name: (number on x86_64, on aarch64); None where there is none.
_NETWORK = {"socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)}
_PROGRAMS = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "setsid": (112, 157), "setpgid": (109, 154),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
}  # fmt: skip
_ALWAYS = {
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "setrlimit": (160, 164), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    "clock_settime": (227, 112), "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
}  # fmt: skip
_CLONE, _CLONE3, _PRCTL, _PRLIMIT64 = (56, 220), (435, 435), (157, 167), (302, 261)


def refusing_program(machine: str, *, network: bool, programs: bool) -> bytes:
    """Instructions of classic BPF, 8 bytes each; empty for a machine that there is no table for. `network`, `programs`: what is allowed."""
    if machine not in MACHINES or sys.byteorder != "little":
        return b""
    column, architecture = MACHINES[machine]
    refused = {**_ALWAYS, **({} if network else _NETWORK), **({} if programs else _PROGRAMS)}
    program = [_load(MACHINE), _jump(EQUAL, architecture, 1, 0), _answer(KILL), _load(NUMBER)]
    if column == 0:
        program += [_jump(AT_LEAST, X32, 0, 1), _answer(REFUSE)]
    for numbers in refused.values():
        if numbers[column] is not None:
            program += [_jump(EQUAL, numbers[column], 0, 1), _answer(REFUSE)]
    if not programs:  # threads are allowed; the flags of clone3 lie in memory, and without it libraries use clone
        program += [_jump(EQUAL, _CLONE3[column], 0, 1), _answer(NOT_THERE)]
        program += [_jump(EQUAL, _CLONE[column], 0, 4), _load(FIRST_ARGUMENT), _jump(ANY_BIT, CLONE_THREAD, 0, 1), _answer(ALLOW), _answer(REFUSE)]
    program += [_jump(EQUAL, _PRCTL[column], 0, 4), _load(FIRST_ARGUMENT), _jump(EQUAL, PR_SET_PDEATHSIG, 0, 1), _answer(REFUSE), _answer(ALLOW)]
    looks = [_load(THIRD_ARGUMENT), _jump(EQUAL, 0, 0, 3), _load(THIRD_ARGUMENT + 4), _jump(EQUAL, 0, 0, 1), _answer(ALLOW), _answer(REFUSE)]
    program += [_jump(EQUAL, _PRLIMIT64[column], 0, len(looks)), *looks]  # limits may be read, not set
    return b"".join([*program, _answer(ALLOW)])


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", 0x20, 0, 0, offset)


def _jump(test: int, value: int | None, skipped_if_so: int, skipped_if_not: int) -> bytes:
    return struct.pack("<HBBI", test, skipped_if_so, skipped_if_not, value)


def _answer(value: int) -> bytes:
    return struct.pack("<HBBI", 0x06, 0, 0, value)
