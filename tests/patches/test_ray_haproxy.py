"""Where Ray Serve is told to use HAProxy, and where it is left alone."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

import pytest
from ray.serve._private import constants

from rrad_ray.patches import ray_haproxy


def test_its_ports_stay_free_its_command_is_installed_and_its_sockets_are_in_the_folder_given(
    tmp_path: Path,
) -> None:
    found = ray_haproxy.environment(tmp_path)
    ports = {int(value) for name, value in found.items() if name.endswith("_PORT")}
    assert len(ports) == 2
    given_to_anyone = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < min(given_to_anyone, constants.RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
    assert os.access(found["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)
    paths = [value for name, value in found.items() if name.endswith(("_LOC", "SOCKET_PATH", "_BASE", "_FILE"))]
    assert len(paths) == 5
    assert all(Path(path).is_relative_to(tmp_path) for path in paths)


def test_without_rays_package_of_it_serves_own_proxy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ray_haproxy.environment(Path()) == {}
