"""bfloat16 rows on disk come back as the fp32 numbers they stand for."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from runtime.embedding import EmbeddingFile
from scheduler.errors import BundleError


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 16)).astype(ml_dtypes.bfloat16)
    rows[3, :4] = [0.0, -0.0, 1e38, -1e-38]
    path = tmp_path / "embedding.bf16"
    path.write_bytes(rows.tobytes())
    found = EmbeddingFile(path, 50, 16).lookup([3, 49, 3])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows[[3, 49, 3]].astype(np.float32))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "embedding.bf16"
    path.write_bytes(bytes(100))
    with pytest.raises(BundleError, match="has 100 bytes; expected 1600 for 50 rows"):
        EmbeddingFile(path, 50, 16)
    with pytest.raises(BundleError, match="has 0 bytes"):
        EmbeddingFile(tmp_path / "missing", 50, 16)
