"""Where users keep profiles of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.profile_files import config_dir


def test_config_directory_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GLM_PLAN_CONFIG_DIR", str(tmp_path))
    assert config_dir() == tmp_path
    monkeypatch.delenv("GLM_PLAN_CONFIG_DIR")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert config_dir() == Path("/etc/xdg/glm-plan")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # the XDG specification: ignore it
    assert config_dir() == Path("/home/me/.config/glm-plan")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert config_dir() == Path("/home/me/Library/Application Support/glm-plan")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", "/c/Users/me/AppData/Roaming")
    assert config_dir() == Path("/c/Users/me/AppData/Roaming/glm-plan")
