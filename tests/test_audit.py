"""`make audit` reports: an SBOM of each lock, and whether anything is known against its packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT

SBOM = 'while [ "$1" != -o ]; do shift; done; echo \'"bom-ref": "requirements-L1"\' > "$2"\n'
FOUND = (
    'while [ "$1" != --output ]; do shift; done; echo "{}" > "$2"; echo "Found 2 known vulnerabilities" >&2; exit 1\n'
)


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        ("exit 0\n", "AUDIT of serve: OSV knows nothing against its packages"),
        (FOUND, "WARNING: AUDIT of serve: Found 2 known vulnerabilities; see"),
        ("echo no route to host >&2; exit 1\n", "WARNING: AUDIT of serve: OSV could not be asked: nothing is known"),
    ],
)
def test_an_audit_never_fails_and_says_when_the_service_could_not_be_asked(
    tmp_path: Path, audit: str, said: str
) -> None:
    for name, script in (("cyclonedx-py", SBOM), ("pip-audit", audit)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "audit", tmp_path, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    assert "SBOM of serve: 1 packages" in done.stdout
    assert said in done.stdout + done.stderr
