"""The processes of a benchmark run, their files and their end.

Whatever is started here ends with the `with` statement that holds it, also after
an error or Ctrl-C.  Each process has a session of its own, so that Ctrl-C reaches
the benchmark alone, which then stops the others in order.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).parents[2]

#: Seconds that a client process may take to get ready, and to measure.
PATIENCE = 120

#: Seconds that a process may take to end.
STOP_PATIENCE = 10


class Failed(Exception):
    """A measurement did not come about; the text says why."""


class Scratch:
    """The run's directory: databases, logs, the temporary files of all processes.

    Goes away with everything in it at the end of the `with` statement.  `notes`
    (list of str) collects what is worth knowing and not part of the table.
    """

    def __init__(self):
        self.notes = []
        self._count = 0
        self._processes = []

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(
            prefix="zeolite-bench-", ignore_cleanup_errors=True
        )
        self.path = pathlib.Path(self._directory.name)
        (self.path / "tmp").mkdir()
        return self

    def __exit__(self, *_):
        # An interrupt may have come before whoever started it could hold it.
        for process in self._processes:
            if process.poll() is None:
                stop(process)
        self._directory.cleanup()

    def fresh(self, name):
        """Return a path (`pathlib.Path`) that is not in use, ending in `name`."""
        self._count += 1
        directory = self.path / str(self._count)
        directory.mkdir()
        return directory / name

    def start(self, arguments, log, **options):
        """Start Python with `arguments`; return a `Popen`.

        What it writes to stderr, and to stdout unless `options` say otherwise,
        goes to the file `log`.
        """
        environment = dict(os.environ)
        old = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), old]))
        environment["TMPDIR"] = str(self.path / "tmp")
        # Compiling is slow, and leaves memory behind that hides what clients need.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(self.path / "bytecode")
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=options.pop("stdin", subprocess.DEVNULL),
                stdout=options.pop("stdout", file),
                stderr=file,
                cwd=self.path,
                env=environment,
                start_new_session=True,
                **options,
            )
        self._processes.append(process)
        return process


def stop(process):
    """End a process and all that it started; return whether it went willingly."""
    willing = True
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            willing = False
    with contextlib.suppress(ProcessLookupError):
        # Its session is its own, so this reaches nobody else.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return willing


def tail(log, lines=8):
    """Return the last lines (str) of a log file."""
    text = pathlib.Path(log).read_text(errors="replace")
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


class Worker:
    """A client process that does one of the jobs in `jobs/`.

    It sets itself up, says so, waits for `go`, and reports a result.
    """

    def __init__(self, scratch, job, **parameters):
        self._job = job
        self._notes = scratch.notes
        self._has_failed = False
        self._log = scratch.fresh(f"{job}.log")
        self._process = scratch.start(
            ["-m", "tests.bench.worker", job, json.dumps(parameters)],
            self._log,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.finish()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_PATIENCE)
        stop(self._process)
        self._process.stdout.close()
        if self._process.returncode > 0 and not self._has_failed:
            self._notes.append(f"{self._job}: failed unnoticed\n{tail(self._log)}")

    def wait_until_ready(self):
        self._line()

    def go(self, *arguments):
        """Let it measure, or do whatever its job is."""
        line = json.dumps(arguments) + "\n"
        with contextlib.suppress(OSError):  # Asking for the result will tell.
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def finish(self):
        """Tell a job that goes on until it is told."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def result(self):
        """Wait for the result and return it.  Raises `Failed`."""
        return json.loads(self._line())

    def _line(self):
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            self._has_failed = True
            status = self._process.wait()
            why = f"no answer in {PATIENCE} s" if status < 0 else f"exit code {status}"
            raise Failed(f"{self._job}: {why}\n{tail(self._log)}")
        return line


def run_jobs(scratch, *jobs):
    """Run jobs at the same time, each in a process; return the results in order.

    A job is a pair of its name and a dictionary of its parameters.
    """
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(scratch, name, **parameters))
            for name, parameters in jobs
        ]
        for worker in workers:
            worker.wait_until_ready()
        for worker in workers:
            worker.go()
        return [worker.result() for worker in workers]
