"""Where Ray Serve is told to use HAProxy, and where it is left alone."""

from __future__ import annotations

import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private import constants

from rrad_ray.patches import ray_haproxy
from rrad_ray.serving.headers import PROXY_ID
from tests.heads import free_port


def test_its_ports_stay_free_its_command_is_installed_and_its_sockets_are_in_the_folder_given(
    tmp_path: Path,
) -> None:
    found = ray_haproxy.environment(tmp_path)
    ports = {int(value) for name, value in found.items() if name.endswith("_PORT")}
    assert len(ports) == 5
    given_to_anyone = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < min(given_to_anyone, constants.RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
    assert os.access(found["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)
    paths = [value for name, value in found.items() if name.endswith(("_LOC", "SOCKET_PATH", "_BASE", "_FILE"))]
    assert len(paths) == 5
    assert all(Path(path).is_relative_to(tmp_path) for path in paths)


OWN_PORTS = "from rrad_ray.patches import ray_haproxy; print(*ray_haproxy.own_ports()[1], flush=True); input()"


def test_processes_that_live_at_the_same_time_share_no_port() -> None:
    ports, count = list[int](), 12
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", OWN_PORTS], **pipes) for _ in range(count)]
    for process in processes:
        ports += map(int, process.stdout.readline().split())
    for process in processes:
        process.communicate("\n")
    assert len(ports) == len(set(ports)) == count * (ray_haproxy.PORT_BLOCK - 1)


def test_without_rays_package_of_it_serves_own_proxy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ray_haproxy.environment(Path()) == {}


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, list[str]]]:
    """HAProxy with our lines before two replicas, of which the first one to be asked dies; give its port, and the ids
    that requests came with."""
    came: list[str] = []

    class Replica(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            came.append(self.headers[PROXY_ID])
            if len(came) > 1:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    replicas = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica) for _ in range(2)]
    for replica in replicas:
        threading.Thread(target=replica.serve_forever, daemon=True).start()
    port = free_port()
    retry = ray_haproxy.RETRIES["RAY_SERVE_HAPROXY_RETRY_ON"].replace("http-request 10s", "http-request 500ms")
    servers = "".join(f"    server s{number} 127.0.0.1:{each.server_port}\n" for number, each in enumerate(replicas))
    config = f"""defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option redispatch 1
    retry-on {retry}
    retries 1
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
{servers}"""
    (tmp_path / "haproxy.cfg").write_text(config)
    process = subprocess.Popen([ray_haproxy.haproxy_binary(), "-db", "-f", str(tmp_path / "haproxy.cfg")])
    try:
        yield port, came
    finally:
        process.terminate()
        process.wait()
        for replica in replicas:
            replica.shutdown()


def answer(port: int, sent: bytes) -> bytes:
    """Return the first bytes of the answer to what is sent, as soon as something listens."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(sent)
                return connection.recv(100)
        except ConnectionRefusedError:
            continue


def test_a_request_that_is_sent_again_keeps_its_id_another_one_has_its_own_and_http_2_is_not_spoken(
    proxy: tuple[int, list[str]],
) -> None:
    port, came = proxy
    for _ in range(2):
        assert answer(port, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert [len(each) for each in came] == [36] * 3
    assert came[0] == came[1] != came[2]
    assert answer(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nx: ", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n1"])
def test_a_request_that_does_not_come_to_its_end_is_sent_away(proxy: tuple[int, list[str]], sent: bytes) -> None:
    port, came = proxy
    assert "timeout http-request 10s" in ray_haproxy.RETRIES["RAY_SERVE_HAPROXY_RETRY_ON"], "here it is half a second"
    assert answer(port, sent)[:13] in (b"HTTP/1.1 408 ", b""), "who has said nothing may be told nothing"
    assert came == []


def test_ray_reads_every_variable_that_haproxy_is_set_by(tmp_path: Path) -> None:
    """One that was renamed is ignored without a word: sockets would be open to all, bodies would not end."""
    names = set(ray_haproxy.environment(tmp_path))
    sources = "".join(path.read_text() for path in Path(constants.__file__).parent.glob("*.py"))
    assert {name for name in names if f'"{name}"' not in sources} == set()


STARTED = """
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
from rrad_ray.patches import ray_haproxy
count = ray_haproxy.connections()
config = f"global\\n maxconn {count}\\ndefaults\\n mode http\\n"
config += " timeout connect 1s\\n timeout client 1s\\n timeout server 1s\\n"
config += f"frontend f\\n bind 127.0.0.1:{sys.argv[2]}\\n http-request return status 200\\n"
open(sys.argv[3], "w").write(config)
process = subprocess.Popen([ray_haproxy.haproxy_binary(), "-db", "-f", sys.argv[3]])
print(count, flush=True)
input()
process.terminate()
print(process.wait())
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("files", "connections"), [(1_000, 450), (5_000, 2_450), (10_000, 4_096)])
def test_haproxy_starts_with_as_many_connections_as_its_process_may_open_files_for(
    tmp_path: Path, files: int, connections: int
) -> None:
    """It ends at its start with more, and the endpoint with it: Ray 2.59 takes 20,000, each of two files."""
    port = free_port()
    command = [sys.executable, "-c", STARTED, str(files), str(port), str(tmp_path / "haproxy.cfg")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == connections
        assert answer(port, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        process.communicate("\n")
