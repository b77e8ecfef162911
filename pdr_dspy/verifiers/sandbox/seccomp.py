"""The seccomp filter of a sandboxed process: refuses system calls that test programs do not need.

Namespaces hide files and the network, and resource limits bound one process. The filter refuses the rest: further
processes (threads are allowed, and counted by RLIMIT_NPROC), memory that belongs to no process (shared memory, memfd),
sockets, other processes' memory, and kernel subsystems with a record of vulnerabilities. Refused calls return EPERM;
calls of another architecture end the process.
"""

from __future__ import annotations

import platform
import struct

_X86_64 = 0xC000003E
_AARCH64 = 0xC00000B7
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_REFUSED: dict[str, tuple[int | None, int | None]] = {  # x86_64, aarch64; None: no such call
    "fork": (57, None),
    "vfork": (58, None),
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "fanotify_init": (300, 262),
}


def program(machine: str | None = None) -> bytes | None:
    """The filter for a machine, in the format of `bwrap --seccomp`; None for an unknown architecture.

    Args:
        machine: a name of `platform.machine()`; None for the current machine.
    """
    known = {
        "x86_64": (_X86_64, 0, 56),
        "amd64": (_X86_64, 0, 56),
        "aarch64": (_AARCH64, 1, 220),
        "arm64": (_AARCH64, 1, 220),
    }
    found = known.get((machine or platform.machine()).lower())
    if found is None:
        return None
    architecture, column, clone = found
    numbers = [pair[column] for pair in _REFUSED.values()]
    refused = [number for number in numbers if number is not None]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if architecture == _X86_64:
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    # clone3 passes its flags by pointer, which a filter cannot read; if it is refused, the C library uses clone.
    steps += [(_EQUAL, 0, 1, 435), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for number in refused:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    steps += [
        (_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_AND, 0, 0, _CLONE_THREAD),
        (_EQUAL, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
