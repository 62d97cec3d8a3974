"""What every test shares: no network, no telemetry, one tiny cross-encoder, one Prefect server."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("LANCE_LOG", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

if "PYTEST_XDIST_WORKER" in os.environ:  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
else:  # what models and kernels showed earlier must not decide what a test sees
    _cache = tempfile.TemporaryDirectory(prefix="rescore-tests-cache-")
    os.environ["RESCORE_CACHE"] = _cache.name

from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tests.support.tiny import tiny_cross_encoder  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
DATA = REPOSITORY.parent / "shared" / "data"

# What takes seconds to start and serves all tests of a process: Prefect's server, and the one
# that jobs to be killed are forked from.
SERVERS = ("prefect_server", "slow_scorer")
IDLE = "SCHEDULER LATE_RUNS FOREMAN PAUSE_EXPIRATIONS CANCELLATION_CLEANUP TRIGGERS".split()

# How long an example takes says something about the machine, nothing about the code.
hypothesis.settings.register_profile(
    "rescore", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("rescore")


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT cross-encoder with random weights: real code, no meaning."""
    return tiny_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own: no model and no kernel has been seen on this machine."""
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file to one process, and all files that share a server of theirs to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class BySharedServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            text = (REPOSITORY / file).read_text("utf-8")
            return next((server for server in SERVERS if server in text), file)

    return BySharedServer(config, log)


def pytest_collection_finish() -> None:
    """Let the garbage collector look seldom through modules that stay: a twentieth of the time."""
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server on a database of its own, for all tests that run flows.

    It has none of the services that wake up again and again for schedules and late runs.
    """
    import prefect.settings as known
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    idle = {getattr(known, f"PREFECT_SERVER_SERVICES_{name}_ENABLED"): False for name in IDLE}
    with (
        temporary_settings(idle),
        prefect_test_harness(server_startup_timeout=24 * 3600),  # a busy machine takes its time
        # The heartbeat thread costs a second per flow run.
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """The config of a finished run with judged pairs; tests that write take a copy of its folder"""
    from tests.support.labelled import finished, write_folder

    config = write_folder(tmp_path_factory.mktemp("labelled"), cross_encoder)
    finished(config)
    return config


def real_data(name: str) -> Path:
    """The folder of a real test collection; the test is skipped where it is not there."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"test collection {name} is not at {DATA}")
    return folder


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say once, after the whole suite, why the tests on clusters did not run."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if whole and "not cluster" in config.option.markexpr:
        terminalreporter.write_line(
            "left out: the tests on real Ray and Dask clusters, whose extras take a minute to "
            "install (make test-cluster)"
        )
