"""The plug-in with which run_cases.py speaks to the node: credentials, and a server inside the container's namespace.

From the environment: H1_ROOT the cluster's secret, H1_UUID the container, H1_PORT its port, H1_NETNS the path of its
network namespace, H1_SCHEME `bound` or `certificate`, H1_CERTIFICATE the gateway's certificate (DER, in hex).
"""
import ctypes
import hashlib
import hmac
import os
import re
import secrets
import sys
import time

ROOT = os.environ["H1_ROOT"].encode()
GATEWAY_UUID = os.environ["H1_UUID"].encode()
TARGET_PORT = os.environ["H1_PORT"].encode()


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).hexdigest().encode()


KEY = mac(ROOT, GATEWAY_UUID)


def bound(method, target):
    now, nonce = b"%d" % time.time(), secrets.token_hex(16).encode()
    signed = b"\n".join([b"v1", now, nonce, GATEWAY_UUID, TARGET_PORT, method, target, b"-"])
    return b"v1 t=%b,n=%b,s=%b" % (now, nonce, mac(KEY, signed))


if os.environ["H1_SCHEME"] == "certificate":
    AUTH_VALUE = mac(KEY, bytes.fromhex(os.environ["H1_CERTIFICATE"]))

    def credential(method, target):
        return AUTH_VALUE

else:
    # Where a case wants a value alone, it wants it for GET /.
    AUTH_VALUE = bound(b"GET", b"/")
    credential = bound


def auth_lines(method, target, index):
    return b"".join(
        b"%b: %b\r\n" % pair
        for pair in (
            (b"X-Arvados-Container-Gateway-Uuid", GATEWAY_UUID),
            (b"X-Arvados-Container-Target-Port", TARGET_PORT),
            (b"X-Arvados-Authorization", credential(method, target)),
        )
    )


# The runner's recording server listens where the gateway looks for it: inside the container's network namespace. The
# socket is made there; it stays there when the thread comes back.
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def enter(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns " + path)
    os.close(fd)


backend = sys.modules["__main__"].Backend
plain_init = backend.__init__


def init_inside(self, port):
    enter(os.environ["H1_NETNS"])
    plain_init(self, port)
    enter("/proc/%d/ns/net" % os.getppid())


backend.__init__ = init_inside


# `bound` signs the request line. The runner takes for it what stands at the beginning of a line; of a pipelined request
# behind a body without a line end (`helloGET /`) that is the body's end too, which is no part of the method.
runner = sys.modules["__main__"]
plain_expand = runner.expand_parts
REQUEST_LINE = re.compile(rb"([A-Z]+) [^ \t\r\n]+ HTTP/1\.1\r\n")


def expand_parts(parts, lines, *rest):
    template = b"".join(parts)
    ends = [found.start() for found in re.finditer(rb"\{\{AUTH\}\}", template)]

    def lines_for(method, target, index):
        found = REQUEST_LINE.findall(template[: ends[index]])
        behind_a_body = index > 0 and found and method.endswith(found[-1])
        return lines(found[-1] if behind_a_body else method, target, index)

    return plain_expand(parts, lines_for if callable(lines) else lines, *rest)


runner.expand_parts = expand_parts
