"""The quickstart's config, put where the user says."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.load import PRESETS


def prepare(folder: Path) -> Path:
    """Write the preset and its questions into the folder, unless they are there; the config."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "quickstart.yaml"
    if not target.exists():
        shutil.copyfile(PRESETS / "quickstart.yaml", target)
        code = shutil.ignore_patterns("*.py", "__pycache__")
        shutil.copytree(
            PRESETS / "quickstart", folder / "questions", ignore=code, dirs_exist_ok=True
        )
    return target
