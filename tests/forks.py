"""Processes as `python -c` starts them, but forks of one that has imported what ours import.

Those imports take a processor seven seconds before a command trains, and the tests start dozens of
commands. A fork is a process like any other, with signals, an exit code and files of its own. Where
what is tested is the start itself, tests start Python as usual.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

# Imports, then forks for each line that it reads; in a fork it goes on with the last line.
_ORIGIN = """
import gc, json, os, sys
import torch._dynamo, torch.distributed.elastic.agent.server.api, torch.utils.tensorboard
import transunet.batch.run, transunet.cli.main, transunet.training.loop, transunet.training.runs

gc.freeze()  # or each fork would copy what its collector looks through

def answer():
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            ended, status = os.waitpid(asked, os.WNOHANG)
            told = os.waitstatus_to_exitcode(status) if ended else None
        elif not (told := os.fork()):
            return asked
        print(json.dumps(told), flush=True)
    sys.exit()

asked = answer()
os.setsid()
for number, path in enumerate((os.devnull, *asked["written"])):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
os.environ.clear()
os.environ.update(asked["environment"])
sys.argv = asked["argv"]
exec(asked["code"])
"""


class Process:
    """`python -c CODE ARGUMENTS` in a session of its own, to be used like a `subprocess.Popen`.

    Args:
        code: what it runs.
        arguments: what it finds in `sys.argv`.
        environment: added to this process's.
        stderr: whether it is kept apart from stdout.
    """

    def __init__(
        self,
        code: str,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
        stderr: bool = False,
    ) -> None:
        folder = Path(tempfile.mkdtemp(dir=os.environ["TRANSUNET_TESTS"]))
        self._written = [folder / "stdout", folder / ("stderr" if stderr else "stdout")]
        words = ["-c", *map(str, arguments)]
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        self.returncode: int | None = None
        self._status: Callable[[], int | None]
        if sys.platform == "linux":
            asked = {"code": code, "argv": words, "environment": variables}
            self.pid = _ask(asked | {"written": [str(path) for path in self._written]})
            self._status = partial(_ask, self.pid)
        else:
            out, err = (path.open("ab") for path in self._written)
            command = [sys.executable, "-c", code, *words[1:]]
            started = subprocess.Popen(
                command, env=variables, stdout=out, stderr=err, start_new_session=True
            )
            self.pid, self._status = started.pid, started.poll

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._written[0].read_text() if self._written[0].exists() else ""

    @property
    def stderr(self) -> str:
        """Likewise; all of it where it is not kept apart."""
        return self._written[1].read_text() if self._written[1].exists() else ""

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._status()
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout, self.stderr


def _ask(what: Any) -> Any:
    origin = _origin()
    assert origin.stdin is not None
    assert origin.stdout is not None
    origin.stdin.write(json.dumps(what) + "\n")
    origin.stdin.flush()
    return json.loads(origin.stdout.readline())


@cache
def _origin() -> subprocess.Popen[str]:
    origin = subprocess.Popen(
        [sys.executable, "-c", _ORIGIN],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for pytest, whose fixtures end what they began
    )
    atexit.register(origin.communicate)
    return origin
