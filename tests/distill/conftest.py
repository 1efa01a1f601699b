"""What the engine's tests share."""

import json
from pathlib import Path

import numpy as np
import pytest

ORACLES = Path(__file__).parents[3] / "shared" / "oracles"


@pytest.fixture(scope="session")
def oracle():
    """case id → (case, arrays): the reference implementations' values."""
    if not (ORACLES / "reference.json").exists():
        pytest.skip(f"reference values are not here: {ORACLES}")
    cases = {case["id"]: case for case in json.loads((ORACLES / "reference.json").read_text())["cases"]}
    arrays = np.load(ORACLES / "reference.npz")
    return lambda case_id: (cases[case_id], arrays)


@pytest.fixture(autouse=True, scope="session")
def _short_latency():
    """Ten forwards are timed, not a second's worth."""
    from worker.distill import compression

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "WARM_UP_SECONDS", 0)
        patch.setattr(compression, "MEASURE_SECONDS", 0)
        yield
