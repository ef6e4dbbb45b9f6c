"""A filter of the system calls that no graded program needs.

Classic BPF over `struct seccomp_data` (linux/seccomp.h): the call's number
is at byte 0, the architecture at 4, the low half of argument i at 16 + 8 i.
"""

import errno

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEW_NAMESPACES = 0x7E020080
_WRITES = 0o103 | 0o1000 | 0o20000000  # O_WRONLY O_RDWR O_CREAT O_TRUNC tmp.

# Audit's number of the architecture, then column of the tables below.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Name: number on x86_64, on aarch64 (None: no such call there).
_DENIED = {
  "acct": (163, 89),
  "add_key": (248, 217),
  "adjtimex": (159, 171),
  "bpf": (321, 280),
  "chroot": (161, 51),
  "clock_adjtime": (305, 266),
  "clock_settime": (227, 112),
  "delete_module": (176, 106),
  "fanotify_init": (300, 262),
  "finit_module": (313, 273),
  "fsconfig": (431, 431),
  "fsmount": (432, 432),
  "fsopen": (430, 430),
  "fspick": (433, 433),
  "init_module": (175, 105),
  "io_uring_enter": (426, 426),
  "io_uring_register": (427, 427),
  "io_uring_setup": (425, 425),
  "ioperm": (173, None),
  "iopl": (172, None),
  "kcmp": (312, 272),
  "kexec_load": (246, 104),
  "keyctl": (250, 219),
  "memfd_create": (319, 279),  # Memory that no limit counts.
  "memfd_secret": (447, 447),
  "mlock": (149, 228),
  "mlockall": (151, 230),
  "modify_ldt": (154, None),
  "mount": (165, 40),
  "mount_setattr": (442, 442),
  "move_mount": (429, 429),
  "mq_open": (240, 180),
  "msgget": (68, 186),
  "name_to_handle_at": (303, 264),
  "open_by_handle_at": (304, 265),
  "open_tree": (428, 428),
  "perf_event_open": (298, 241),
  "personality": (135, 92),
  "pidfd_getfd": (438, 438),
  "pivot_root": (155, 41),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "ptrace": (101, 117),
  "quotactl": (179, 60),
  "reboot": (169, 142),
  "request_key": (249, 218),
  "semget": (64, 190),
  "setdomainname": (171, 162),
  "sethostname": (170, 161),
  "setns": (308, 268),
  "settimeofday": (164, 170),
  "shmget": (29, 194),
  "socket": (41, 198),  # socketpair stays: it reaches nobody else.
  "swapoff": (168, 225),
  "swapon": (167, 224),
  "syslog": (103, 116),
  "umount2": (166, 39),
  "unshare": (272, 97),
  "userfaultfd": (323, 282),
  "vhangup": (153, 58),
}
_SIGNALS = {
  "kill": (62, 129),
  "pidfd_send_signal": (424, 424),
  "rt_sigqueueinfo": (129, 138),
  "rt_tgsigqueueinfo": (297, 240),
  "tgkill": (234, 131),
  "tkill": (200, 130),
}
_METADATA = {
  "chmod": (90, None),
  "chown": (92, None),
  "fchmod": (91, 52),
  "fchmodat": (268, 53),
  "fchmodat2": (452, 452),
  "fchown": (93, 55),
  "fchownat": (260, 54),
  "fremovexattr": (199, 16),
  "fsetxattr": (190, 7),
  "futimesat": (261, None),
  "lchown": (94, None),
  "lremovexattr": (198, 15),
  "lsetxattr": (189, 6),
  "removexattr": (197, 14),
  "setxattr": (188, 5),
  "utime": (132, None),
  "utimensat": (280, 88),
  "utimes": (235, None),
}
_CHANGES = {
  "creat": (85, None),
  "link": (86, None),
  "linkat": (265, 37),
  "mkdir": (83, None),
  "mkdirat": (258, 34),
  "mknod": (133, None),
  "mknodat": (259, 33),
  "rename": (82, None),
  "renameat": (264, 38),
  "renameat2": (316, 276),
  "rmdir": (84, None),
  "symlink": (88, None),
  "symlinkat": (266, 36),
  "truncate": (76, 45),
  "unlink": (87, None),
  "unlinkat": (263, 35),
}
_CLONE, _OPEN, _OPENAT = (56, 220), (2, None), (257, 56)
# Arguments of these stand in memory, out of a filter's sight.
_UNREADABLE = {"clone3": (435, 435), "openat2": (437, 437)}

Instruction = tuple[int, int, int, int]


def instructions(
  machine: str, *, no_signals: bool, no_metadata: bool, read_only: bool
) -> list[Instruction]:
  """The filter's program.

  Args:
    machine: A key of ARCHITECTURES.
    no_signals: Whether to refuse signals, to whomever.
    no_metadata: Whether to refuse changes of modes, owners, times and
      attributes, which Landlock does not see.
    read_only: Whether to refuse every change of files.
  """
  audit, column = ARCHITECTURES[machine]
  denied = _DENIED | (_SIGNALS if no_signals else {})
  denied |= _METADATA if no_metadata else {}
  denied |= _CHANGES if read_only else {}
  program = [
    (_LOAD, 0, 0, 4),
    (_EQUAL, 1, 0, audit),
    (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, 0),
  ]
  if machine == "x86_64":  # The x32 calls have this bit.
    program += [(_AT_LEAST, 0, 1, 0x40000000), _fail(errno.ENOSYS)]
  for numbers in denied.values():
    program += _if_call(numbers[column], [_fail(errno.EPERM)])
  for numbers in _UNREADABLE.values():
    program += _if_call(numbers[column], [_fail(errno.ENOSYS)])
  program += _if_call(_CLONE[column], _deny_bits(0, _NEW_NAMESPACES))
  if read_only:
    program += _if_call(_OPEN[column], _deny_bits(1, _WRITES))
    program += _if_call(_OPENAT[column], _deny_bits(2, _WRITES))
  return [*program, (_RETURN, 0, 0, _ALLOW)]


def _fail(error: int) -> Instruction:
  return (_RETURN, 0, 0, _FAIL | error)


def _if_call(number: int | None, then: list[Instruction]) -> list[Instruction]:
  if number is None:
    return []
  return [(_EQUAL, 0, len(then), number), *then]


def _deny_bits(argument: int, bits: int) -> list[Instruction]:
  """Ends the program: fails if the argument has one of the bits."""
  return [
    (_LOAD, 0, 0, 16 + 8 * argument),
    (_ANY_BIT, 0, 1, bits),
    _fail(errno.EPERM),
    (_RETURN, 0, 0, _ALLOW),
  ]
