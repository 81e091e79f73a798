"""What an export asks of the machine, at the size of the real model."""

from __future__ import annotations

import pytest

from runtime.export.request import Encoding
from runtime.export.resources import choose_jobs, converter_bytes, require_disk, work_bytes
from scheduler.errors import UserInputError
from scheduler.model import embedding_bytes
from scheduler.profiles import load_model

GB = 10**9


@pytest.fixture
def spec():
    return load_model("chatglm-6b")


def test_estimates_cover_what_was_measured(spec):
    """Peaks of the converter's private memory on full-size parts, MNN 3.6.1."""
    assert 6.42 * GB <= converter_bytes(spec, "lm_head") < 7 * GB
    assert 1.07 * GB <= converter_bytes(spec, "block_0") < 1.5 * GB


@pytest.mark.parametrize(
    ("available", "cores", "jobs"),
    [(2 * GB, 16, 1), (4 * GB, 16, 2), (24 * GB, 2, 2), (9 * GB, 16, 5), (300 * GB, 128, 28)],
)
def test_jobs_follow_memory_and_cores(spec, available, cores, jobs):
    assert choose_jobs(spec, None, available, cores) == jobs
    assert choose_jobs(spec, 5, available, cores) == 5


def test_disk_covers_outputs_and_what_is_there_for_a_while(spec, tmp_path, monkeypatch):
    from runtime.export import resources

    def with_free(free_bytes):
        usage = type("Usage", (), {"free": free_bytes})
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage)
        require_disk(tmp_path, spec, tasks, jobs=2)

    names = [*(f"block_{number}" for number in range(28)), "lm_head"]
    tasks = [(name, Encoding("fp16")) for name in names]
    outputs = 11.50 * 2**30 + embedding_bytes(spec)  # measured
    temporary = work_bytes(spec, "lm_head") + work_bytes(spec, "block_0")
    with_free(int((outputs + temporary) * 1.05))
    with pytest.raises(UserInputError, match=r"GiB free and this export needs"):
        with_free(int(outputs + temporary))
