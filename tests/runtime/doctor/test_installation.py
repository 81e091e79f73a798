"""Findings about an installation: versions, extras in part, and names that others took."""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest

from runtime.doctor import installation
from runtime.doctor.installation import Requirement, read_requirements

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LINES = [
    "numpy>=1.26",
    "tomli>=2; python_version < '3.11'",
    "onnx>=1.17; extra == 'export'",
    "gguf>=0.17; extra == 'export'",
    "onnx>=1.17; extra == 'gpu'",
    "onnxruntime-webgpu>=1.25; extra == 'gpu'",
    "glm-plan[export,pull]; extra == 'dev'",
    'onnxruntime-webgpu>=1.25; (python_version >= "3.11") and extra == "dev"',
]


def test_requirements_are_read_as_metadata_writes_them() -> None:
    on_310, on_311 = (read_requirements(LINES, minor) for minor in (10, 11))
    assert Requirement("tomli", "2", None) in on_310
    assert Requirement("tomli", "2", None) not in on_311
    assert Requirement("glm-plan", None, "dev") in on_311
    assert Requirement("onnxruntime-webgpu", "1.25", "dev") in on_311
    assert Requirement("onnxruntime-webgpu", "1.25", "dev") not in on_310


def test_our_own_requirements_can_be_read() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    found = read_requirements(project["dependencies"], 10)
    assert {"MNN", "numpy", "tomli"} <= {one.name for one in found}
    assert all(one.least for one in found)


def test_packages() -> None:
    wanted = [Requirement("MNN", "3.6", None), Requirement("nvidia_ml-py", "12.560", None)]
    good = {"mnn": "3.6.0", "nvidia-ml-py": "13.1rc1"}
    assert [one.status for one in installation.packages(wanted, good)] == ["ok"]
    (old,) = installation.packages(wanted, good | {"mnn": "3.5.9"})
    assert (old.status, old.text) == ("fail", "MNN is 3.5.9, 3.6 or newer is needed")
    (gone,) = installation.packages(wanted, {"mnn": "3.10"})
    assert (gone.status, gone.text) == ("fail", "nvidia_ml-py is missing")
    assert [one.status for one in installation.packages([], good)] == ["warn"]


def test_extras_in_part_are_named_and_absent_ones_are_no_fault() -> None:
    wanted = read_requirements(LINES, 11)
    nothing = installation.extras(wanted, {})
    assert [(one.status, one.text) for one in nothing] == [("ok", "none; without export, gpu")]
    part = installation.extras(wanted, {"onnx": "1.20"})
    assert [one.status for one in part] == ["ok", "warn"]
    assert part[1].text == "export is here in part: gguf is missing"
    assert part[1].remedy == "pip install 'glm-plan[export]'"
    whole = installation.extras(wanted, {"onnx": "1.20", "gguf": "0.19"})
    assert [one.text for one in whole] == ["export; without gpu"]


def test_packages_of_onnx_runtime_that_wrote_over_each_other() -> None:
    assert installation.onnx_runtimes([]).status == "ok"
    assert installation.onnx_runtimes(["onnxruntime"]).text == "onnxruntime"
    both = installation.onnx_runtimes(["onnxruntime", "onnxruntime-gpu"])
    assert both.status == "fail"
    assert str(both.remedy).startswith("pip uninstall onnxruntime onnxruntime-gpu")


def test_files_that_were_changed_after_they_were_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"value = 1\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    info = tmp_path / "some_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1\n")
    (info / "RECORD").write_text(f"some_module.py,sha256={digest},10\nnotes.txt,,\n")
    (tmp_path / "some_module.py").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installation.altered(["some-package", "not-here"])
    assert (found.status, found.text) == ("ok", "1 files of packages are as installed")
    (tmp_path / "some_module.py").write_bytes(b"value = 2\n")
    changed = installation.altered(["some-package"])
    assert changed.status == "fail"
    assert changed.text == "some-package: some_module.py are not as installed"
    assert changed.remedy == "pip install --force-reinstall some-package"
    (tmp_path / "some_module.py").unlink()
    assert installation.altered(["some-package"]).status == "fail"


def test_names_that_others_took() -> None:
    ours = {name: ["glm_plan"] for name in installation.OWN_PACKAGES}
    assert installation.own_names(ours, ["/a", "/a", "/a"]).status == "ok"
    taken = installation.own_names(ours | {"runtime": ["glm-plan", "other"]}, ["/a"])
    assert taken.status == "fail"
    assert "other also installs a package called runtime" in taken.text
    assert installation.own_names({}, ["/a", "/b", "/a"]).status == "fail"


def test_python() -> None:
    assert installation.python((3, 10, 0), 64).status == "ok"
    assert installation.python((3, 9, 9), 64).status == "fail"
    assert installation.python((3, 12, 0), 32).status == "fail"
