"""Certificates that nobody trusts unless told to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def own_certificate(folder: Path, host: str = "127.0.0.1") -> Path:
    """A certificate of the host with its key in one file, signed by itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    own = folder / "own.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    kind = "IP" if host[0].isdigit() else "DNS"
    name = ["-subj", f"/CN={host}", "-addext", f"subjectAltName={kind}:{host}"]
    files = ["-keyout", "own.key", "-out", str(own)]
    subprocess.run([*make.split(), *name, *files], cwd=folder, check=True, capture_output=True)
    own.write_text(own.read_text() + (folder / "own.key").read_text())
    return own
