"""Which backends really work: the real MNN in real child processes, and broken stand-ins."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.backends import ort_proof, proof
from runtime.backends.ort_proof import prove_ort
from runtime.backends.proof import MNN_KINDS, BackendReport, prove_backends
from scheduler.hardware import Gpu

GPU = Gpu(name="gpu0", model_name="any", total_bytes=1, free_bytes=1)

# A stand-in engine: `exists` decides per backend, the rest does what a test needs done wrong.
FAKE_MNN = """
import os, signal, sys, time
def version():
    return "9.9.9"
class Interpreter:
    @staticmethod
    def createRuntime(configs):
        print("noise on stdout", flush=True)
        os.write(1, b"more noise, as from C\\n")
        kind = configs[0]["backend"]
        {behaviour}
"""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    proof.ask_child.cache_clear()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a package named MNN with this behaviour before the real one, for child processes."""

    def install(behaviour: str) -> None:
        (tmp_path / "MNN").mkdir()
        (tmp_path / "MNN/__init__.py").write_text(FAKE_MNN.format(behaviour=behaviour))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def statuses(report: BackendReport) -> dict[str, str]:
    return {backend.kind: backend.status for backend in report.backends}


def reason(report: BackendReport, kind: str) -> str:
    (found,) = [backend.reason for backend in report.backends if backend.kind == kind]
    return found


def test_the_cpu_backend_of_the_real_mnn_computes_what_numpy_computes() -> None:
    report = prove_backends(())
    cpu = report.backends[0]
    assert (report.engine, cpu.kind, cpu.status) == ("mnn", "cpu", "works")
    # Not exactly zero: that would be NumPy compared with itself.
    assert cpu.relative_error is not None
    assert 0 < cpu.relative_error < 1e-4
    assert report.version is not None
    assert report.version[0].isdigit()
    assert "mnn:cpu" in report.working
    assert set(statuses(report)) == set(MNN_KINDS)
    assert all(backend.reason.endswith(".") for backend in report.backends)


def test_answers_are_kept_for_the_life_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prove_backends(())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a second child was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert prove_backends(()) == first


def test_this_process_never_imports_an_engine() -> None:
    code = (
        "import sys; from runtime.backends.proof import prove_backends;"
        "report = prove_backends(); assert 'mnn:cpu' in report.working, report;"
        "print([name for name in ('MNN', '_mnncengine', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    # Nothing but our own line: MNN's messages from C must not reach this process's stdout.
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_missing_engine_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the import system raises where no MNN is installed.
    (tmp_path / "MNN.py").write_text("raise ModuleNotFoundError('no MNN', name='MNN')")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = prove_backends(())
    assert report.version is None
    assert set(statuses(report).values()) == {"missing"}
    assert report.working == frozenset()
    assert "pip install MNN" in reason(report, "cpu")


def test_an_engine_that_cannot_be_imported_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MNN.py").write_text("raise ImportError('libfoo.so.1: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    report = prove_backends(())
    assert report.version is None
    assert set(statuses(report).values()) == {"failed"}
    assert "libfoo.so.1" in reason(report, "cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="names a POSIX signal")
def test_a_crash_costs_one_backend_only(stand_in: Callable[[str], None]) -> None:
    stand_in(
        "if kind == 'VULKAN': os.kill(os.getpid(), signal.SIGSEGV)\n        return None, (False,)"
    )
    report = prove_backends(())
    assert report.version == "9.9.9"
    assert statuses(report) == dict.fromkeys(MNN_KINDS, "missing") | {"vulkan": "failed"}
    assert "crashed (SIGSEGV)" in reason(report, "vulkan")


def test_a_hang_ends_with_the_time_limit(stand_in: Callable[[str], None]) -> None:
    stand_in("if kind == 'OPENCL': time.sleep(600)\n        return None, (False,)")
    report = prove_backends((), timeout_s=5)
    assert statuses(report)["opencl"] == "failed"
    assert "did not answer within 5 seconds" in reason(report, "opencl")


def test_an_exception_in_the_child_is_a_sentence(stand_in: Callable[[str], None]) -> None:
    stand_in("raise SystemError('returned a result with an exception set')")
    assert "exception set" in reason(prove_backends(()), "cpu")


def test_a_cuda_build_without_a_gpu_has_no_device(stand_in: Callable[[str], None]) -> None:
    # The stand-in has no numeric part: the test would fail if one were tried without a GPU.
    stand_in("return None, (kind == 'CUDA',)")
    report = prove_backends(())
    assert statuses(report)["cuda"] == "no_device"
    assert "NVML shows no NVIDIA GPU" in reason(report, "cuda")
    assert report.working == frozenset()


def test_a_cuda_build_with_a_gpu_must_still_compute(stand_in: Callable[[str], None]) -> None:
    stand_in("return None, (kind == 'CUDA',)")
    report = prove_backends((GPU,))
    assert statuses(report)["cuda"] == "failed"
    assert report.working == frozenset()


def test_wrong_numbers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real MNN, but its relu returns its input: as a driver with a broken kernel would."""
    installed = importlib.util.find_spec("MNN")
    assert installed is not None
    assert installed.origin is not None
    package = tmp_path / "MNN"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"__path__ = {[str(Path(installed.origin).parent)]!r}\n"
        "from _mnncengine import *\n"
        "import MNN.expr\n"
        "MNN.expr.relu = lambda x: x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    report = prove_backends(())
    assert statuses(report)["cpu"] == "failed"
    assert "its results are wrong" in reason(report, "cpu")


def test_the_callers_directory_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder named `runtime` or a file MNN.py where the user happens to be must not be picked up.
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/__init__.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "MNN.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3]), *sys.path])
    monkeypatch.chdir(tmp_path)
    assert "mnn:cpu" in prove_backends(()).working


def test_providers_of_onnx_runtime_are_proved_by_a_block() -> None:
    pytest.importorskip("onnxruntime")
    report = prove_ort(("cpu", "cuda"))
    cpu, cuda = report.backends
    assert (cpu.status, "ort:cpu" in report.working) == ("works", True)
    assert cpu.relative_error is not None
    assert 0 < cpu.relative_error < 1e-5
    assert cuda.status == "missing" or "cuda" in report.working


def test_a_provider_that_cannot_start_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would run on the CPU instead, with a message."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "WebGpuExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-webgpu")
    monkeypatch.setenv("VK_DRIVER_FILES", os.devnull)
    monkeypatch.setenv("VK_ICD_FILENAMES", os.devnull)
    (webgpu,) = prove_ort(("webgpu",)).backends
    assert webgpu.status == "failed"
    assert "Failed to get a WebGPU adapter" in webgpu.reason
    assert "\n" not in webgpu.reason


def test_without_onnx_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_proof, "ask_child", lambda *_: {"installed": False})
    (webgpu,) = prove_ort(("webgpu",)).backends
    assert (webgpu.status, "glm-plan[gpu]" in webgpu.reason) == ("missing", True)
