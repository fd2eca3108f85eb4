"""The token of this user's Ray clusters, in a file that nobody else can read.

Whoever has it can run code as the user on each of them: their ports listen on every interface.

Uses: the file ~/.ray/auth_token, which Ray takes as it is where there is one, and the variables RAY_AUTH_TOKEN and
RAY_AUTH_TOKEN_PATH, which come before it, and RAY_AUTH_MODE (Ray 2.60).

Upstream: Ray writes it as the umask says, which is for everyone to read where the home folder is open. Delete when it
does not.

Breaks: with another place of the file Ray makes a token of its own, as it would without this.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

OWN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # tokens that are the user's to look after


def keep_private() -> None:
    """Make the token where there is none, and take it from other users where there is one; nothing where Ray uses
    none or another one. Raises `OSError` for a file of another user."""
    if any(name in os.environ for name in OWN) or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        path.chmod(0o600)
        return
    # Of two runs that begin at once one must not read a file into which the other has not written yet.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.") as file:  # its mode is 0600
        file.write(secrets.token_hex(32))
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
