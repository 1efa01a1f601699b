"""Where kdweb keeps its files. One folder, `KDWEB_HOME`, holds everything that must outlive a restart."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SOCKET_LIMIT = 100  # the kernel keeps 104 (BSD, macOS) to 108 (Linux) bytes for a unix socket's path


def home() -> Path:
    """The data folder, created on first use and closed to other users."""
    folder = Path(os.environ.get("KDWEB_HOME") or CHECKOUT / ".kdweb").expanduser().absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def runtime_dir(home: Path) -> Path:
    """Where sockets live: in the home, or in a short private folder where the home's path is too long."""
    folder = home / "run"
    if len(os.fsencode(folder / "redis.sock")) > SOCKET_LIMIT:
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"kdweb-{os.getuid()}-{digest}"
    return folder


def make_private(folder: Path) -> Path:
    """Create the folder with mode 0700, and refuse one that somebody else put there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid():
        raise RuntimeError(
            f"{folder} belongs to another user: remove it, or set KDWEB_HOME to a shorter path."
        )
    folder.chmod(0o700)
    return folder


def secret_key(home: Path) -> str:
    """The signing key, made once. Written aside and linked into place, so that two starts agree on one."""
    path = home / "secret-key"
    if not path.exists():
        draft = home / f".secret-key-{os.getpid()}-{secrets.token_hex(4)}"
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(64))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first: its key is the key
        finally:
            draft.unlink()
    key = path.read_text(encoding="ascii").strip()
    if len(key) < 50:
        raise RuntimeError(
            f"{path} holds no usable key: remove the file and a new one is made at the next start."
        )
    return key
