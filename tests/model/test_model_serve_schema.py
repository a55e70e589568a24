"""The served OpenAPI page under schemathesis: what it allows is answered, what it does not is refused in its words."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from paths import ROOT

pytest.importorskip("uvicorn", reason="the server's tests need pip install 'armor-eval[serve]'")
from test_model_serve import Served

pytestmark = pytest.mark.slow
SCHEMATHESIS = shutil.which("schemathesis")
EXAMPLES = 30


@pytest.fixture
def served(talker) -> Iterator[Served]:
    it = Served(*talker, batch=4, queue=64)
    yield it
    it.close()


@pytest.mark.skipif(SCHEMATHESIS is None, reason="needs pip install schemathesis, in an environment on the PATH")
def test_requests_that_others_make_of_our_schema(served, tmp_path):
    command = [SCHEMATHESIS, "run", f"{served.url}/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "1"]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": str(ROOT / "tests/helpers/schemathesis_hooks.py")}
    env.pop("PYTHONPATH", None)  # it may live in an environment of its own
    done = subprocess.run(
        [*command, "--workers", "1", "--no-color", "--request-timeout", "120"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
