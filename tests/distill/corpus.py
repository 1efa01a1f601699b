"""The collection of hostile and good files beside the repository. Its payloads can only create MARKER."""

import json
from pathlib import Path

import pytest

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
MARKER = Path("/tmp/kdweb-pwned-marker")


def files(*folders: str) -> list:
    """pytest parameters (path, verdict) of every file; one skipped parameter when the corpus is not here."""
    if not (CORPUS / "MANIFEST.json").exists():
        return [pytest.param(None, "", marks=pytest.mark.skip(reason=f"the corpus is not here: {CORPUS}"))]
    entries = json.loads((CORPUS / "MANIFEST.json").read_text())["entries"]
    chosen = [e for e in entries if e["file"].startswith(folders) and (CORPUS / e["file"]).exists()]
    return [pytest.param(CORPUS / e["file"], e["verdict"], id=e["file"]) for e in chosen]
