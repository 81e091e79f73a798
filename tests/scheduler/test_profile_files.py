"""Where users keep profiles of their own, and large files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scheduler.profile_files import config_dir, data_dir


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


def test_data_directory_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GLM_PLAN_DATA_DIR", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("GLM_PLAN_DATA_DIR")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert data_dir() == Path("/data/glm-plan")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert data_dir() == Path("/home/me/.local/share/glm-plan")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data_dir() == Path("/home/me/Library/Application Support/glm-plan")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/c/Users/me/AppData/Local")
    assert data_dir() == Path("/c/Users/me/AppData/Local/glm-plan")
