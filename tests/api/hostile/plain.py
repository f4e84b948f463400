"""The application under uvicorn as it comes, without the HTTP protocol of `serve`."""

import subprocess
import sys

import httpx

from tests.processes import ROOT, RunningService, await_ready, environment, free_port


class plain_uvicorn:  # noqa: N801  (a context manager)
    """`uvicorn app.main:app` with one of its implementations of HTTP."""

    def __init__(self, http: str, **values: str) -> None:
        self._port = free_port()
        command = [sys.executable, "-m", "uvicorn", "app.main:app", "--http", http]
        command += ["--port", str(self._port), "--log-level", "warning"]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment(**values))

    def __enter__(self) -> RunningService:
        base = f"http://127.0.0.1:{self._port}"
        client = httpx.Client(base_url=base, timeout=60)
        await_ready(client, self._process)
        return RunningService(self._process, base, client)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
