"""The child of `sandbox.py`, run as a script by path: shuts itself in, then answers requests, a JSON line each.

It imports nothing of the project, and nothing of the project imports it. Three processes: the first makes the namespaces and waits; the
second is number 1 in them, so that everything ends with it; the third runs the code.
"""

import ast
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback

CODE = "<code>"
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2
CAPABILITY_VERSION_3 = 0x20080522
MS_NOSUID, MS_NODEV = 2, 4
# Landlock (linux/landlock.h): rights over files, by the version of the interface that brought them, and system calls on all architectures.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE, IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14, 1 << 15
FIRST_RIGHTS = (1 << 13) - 1
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
TCP_BIND_AND_CONNECT, SCOPED = 3, 3
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero", "/dev/null")


def main():
    asked = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    _die_with_parent(libc, asked["parent"])
    told = _namespaces(libc, asked)
    requests = os.dup(0)  # the code may read its standard input: there is nothing in it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["folder"])
    _limits(asked, bool(told))
    _drop_capabilities(libc)
    files, has_tcp = _landlock(libc, asked)
    told["files"] = files or "any that this user may read or write: this kernel has no Landlock"
    has_filter = _refuse_calls(libc, bytes.fromhex(asked["refusing"]))
    held = ["files"] * bool(files) + ["network"] * ("network" in told or has_filter) + ["calls"] * has_filter
    if has_filter:
        told["calls"] = "those that reach out of it are refused (seccomp)"
    if asked["network"]:
        told["network"] = "allowed"
    elif "network" not in told and has_filter:
        told["network"] = "none (seccomp)"
    elif "network" not in told:
        sys.addaudithook(_refuse_network)
        told["network"] = ("TCP is refused by the kernel, the rest" if has_tcp else "refused") + " in Python only: namespaces are not permitted here"
    told.setdefault("processes", "those of this user can be seen: namespaces are not permitted here")
    out = os.fdopen(asked["answers"], "w", encoding="utf-8")
    _answer(out, {"isolation": told, "held": held})
    _serve(os.fdopen(requests, "r", encoding="utf-8"), out)


def _serve(requests, out):
    names = {"__name__": "__sandbox__", "__builtins__": __builtins__}
    own = os.getpid()
    for line in requests:
        request = json.loads(line)
        try:
            value = _run(request["run"], names) if "run" in request else _call(request, names)
            answer = json.dumps({"value": value}, default=_plain)
        except BaseException as error:  # also SystemExit: the child goes on
            answer = json.dumps({"error": _line_of(error)})
        if os.getpid() != own:
            os._exit(0)  # the code forked: one of the two goes on
        sys.stdout.flush()
        out.write(answer + "\n")
        out.flush()


def _run(code, names):
    import linecache

    tree = ast.parse(code, CODE)
    linecache.cache[CODE] = (len(code), None, code.splitlines(True), CODE)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, CODE, "exec"), names)
        if (shown := eval(compile(last, CODE, "eval"), names)) is not None:
            print(repr(shown))
    else:
        exec(compile(tree, CODE, "exec"), names)


def _call(request, names):
    function = names.get(request["call"])
    if not callable(function):
        raise NameError(f"there is no function {request['call']!r}")
    return function(*request["arguments"], **request["named"])


def _plain(value):
    """What json does not know: numbers and arrays of libraries."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _line_of(error):
    text = traceback.format_exception_only(error)[-1].strip()[:2000]
    if isinstance(error, SyntaxError):
        return f"{text} (line {error.lineno})"
    if isinstance(error, MemoryError):
        text = f"{text}: more memory than is allowed".replace("::", ":")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == CODE]
    return f"{text} (line {lines[-1]})" if lines else text


def _answer(out, answer):
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _die_with_parent(libc, parent):
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def _namespaces(libc, asked):
    """Returns in the third process: what is held back, or nothing where namespaces are not permitted (and there is only one process)."""
    user, group = os.getuid(), os.getgid()
    wanted = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | (0 if asked["network"] else CLONE_NEWNET)
    if libc is None or libc.unshare(wanted) != 0:
        return {}
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            continue  # its files are its own all the same; only the folder in memory needs the maps
    told = {"processes": "its own only (process namespace)"}
    if not asked["network"]:
        told["network"] = "none (network namespace)"
    options = f"size={asked['files_bytes']},mode=700".encode()
    if asked["in_memory"]:
        libc.mount(b"tmpfs", asked["folder"].encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options)
    for _ in range(2):
        if child := os.fork():
            os.close(0)
            os.close(asked["answers"])
            _wait(child)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return told


def _wait(child):
    while True:  # number 1 also inherits what others leave behind
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _limits(asked, own_namespace):
    limits = {
        resource.RLIMIT_AS: asked["memory_bytes"], resource.RLIMIT_FSIZE: asked["files_bytes"], resource.RLIMIT_NOFILE: asked["open_files"],
        resource.RLIMIT_CORE: 0,
    }  # fmt: skip
    if own_namespace:  # elsewhere it would count all processes of this user
        limits[resource.RLIMIT_NPROC] = asked["processes"]
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(which, (least, least))
        except (ValueError, OSError):
            continue  # a system that does not know this limit
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an OSError then


def _landlock(libc, asked):
    """(what the kernel allows of files in words, or nothing; whether it refuses TCP)."""
    if libc is None:
        return "", False
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1 or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return "", False
    rights = FIRST_RIGHTS | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0) | (IOCTL_DEV if version >= 5 else 0)
    no_tcp = version >= 4 and not asked["network"]
    attributes = (ctypes.c_uint64 * 3)(rights, TCP_BIND_AND_CONNECT if no_tcp else 0, SCOPED if version >= 6 else 0)
    rules = libc.syscall(CREATE_RULESET, ctypes.byref(attributes), 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    if rules < 0:
        return "", False
    read = EXECUTE | READ_FILE | READ_DIR
    for path in {*SYSTEM, sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path), *asked["readable"]}:
        _allow(libc, rules, path, read | (WRITE_FILE if path == os.devnull else 0))
    _allow(libc, rules, asked["folder"], rights)
    if libc.syscall(RESTRICT_SELF, rules, 0) != 0:
        return "", False
    os.close(rules)
    return "its own folder, and the system's programs and libraries to read (Landlock)", no_tcp


def _allow(libc, rules, path, rights):
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        rights &= EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
    rule = rights.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
    libc.syscall(ADD_RULE, rules, 1, rule, 0)
    os.close(place)


def _refuse_calls(libc, program):
    """Whether the kernel now refuses what the program refuses, in this process and all that it starts."""
    if libc is None or not program or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    code = ctypes.create_string_buffer(program)
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(head), 0, 0) == 0


def _drop_capabilities(libc):
    """Also those that the namespace brought; without them the superuser is bound by limits and modes, too."""
    if libc is not None:
        libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), struct.pack("6I", 0, 0, 0, 0, 0, 0))


def _refuse_network(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        raise PermissionError("the network is not allowed here")
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "ctypes.dlopen"):
        raise PermissionError("programs are not allowed here: they could use the network")


if __name__ == "__main__":
    main()
