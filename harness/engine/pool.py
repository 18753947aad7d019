"""One loaded model on each of several devices, and jobs for whichever is free.

Each device has a process of its own. A worker is given two jobs ahead, so that it lays out the next while its device
computes; the answers don't depend on which worker gave them. Only the parent writes to the store.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import multiprocessing

from harness.engine.identity import Located
from harness.engine.jobs import Job
from harness.errors import EnvironmentFault, ModelError, UzBenchError
from harness.records import RunSpec

AHEAD = 2
"""Jobs that a worker holds."""


class ServerPool:
    """What harness.engine.load.ModelServer does, on several devices.

    adapters: name to place. Raises what loading raises.
    """

    def __init__(self, spec: RunSpec, base: Located, adapters: Mapping[str, Located], devices: Sequence[str]):
        # A forked process can't use CUDA.
        context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []
        for device in devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, spec, base, dict(adapters), device), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        self.free_bytes = min(self._receive(number) for number in range(len(devices)))

    def compute(
        self, adapter: str | None, kind: str, jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Mapping[str, Any] | None]]:
        """Does jobs as the base (None) or as an adapter, in the order in which they are done."""
        waiting = deque(jobs)
        held: list[deque[Job]] = [deque() for _ in self._workers]
        fed = set(range(len(self._workers)))  # those that may still be given a job
        open_ = set(fed)  # those that haven't put this kind of work away

        def give(number: int) -> None:
            if number not in fed:
                return
            if waiting:
                held[number].append(waiting[0])
            else:
                fed.discard(number)
            self._send(number, waiting.popleft() if waiting else None)

        for number in range(len(self._workers)):
            self._send(number, (adapter, kind))
        for _ in range(AHEAD):
            for number in range(len(self._workers)):
                give(number)
        while open_:
            for number in self._ready(open_):
                found = self._receive(number)
                if held[number]:
                    give(number)
                    yield held[number].popleft(), found
                else:
                    open_.discard(number)

    def close(self) -> None:
        """Ends the workers."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join(5)

    def _ready(self, numbers: Iterable[int]) -> list[int]:
        """Those of some workers that have sent something, or ended."""
        by_connection = {self._workers[number][1]: number for number in numbers}
        return [by_connection[each] for each in wait(list(by_connection))]  # type: ignore[index]

    def _send(self, number: int, message: object) -> None:
        try:
            self._workers[number][1].send(message)
        except OSError:
            raise self._ended(number) from None

    def _receive(self, number: int) -> Any:
        try:
            found = self._workers[number][1].recv()
        except (EOFError, OSError):
            raise self._ended(number) from None
        if isinstance(found, _Failure):
            found.raise_here()
        return found

    def _ended(self, number: int) -> EnvironmentFault:
        process, _ = self._workers[number]
        process.join(5)
        return EnvironmentFault(
            f"The process of device {number} ended (exit code {process.exitcode}), killed for want of memory perhaps. "
            "What was answered is kept: type the same command again, with fewer --gpus if it fails again."
        )


class _Failure:
    """An exception on its way to the parent, whose own type may not travel."""

    def __init__(self, error: BaseException):
        self.exit_code = error.exit_code if isinstance(error, UzBenchError) else None
        self.text = str(error) if self.exit_code is not None else traceback.format_exc()

    def raise_here(self) -> None:
        """Raises it again: the same line and exit code, or a bug with the traceback that it had."""
        if self.exit_code is None:
            raise RuntimeError(f"in a worker:\n{self.text}")
        raise (EnvironmentFault if self.exit_code == EnvironmentFault.exit_code else ModelError)(self.text)


def _inbox(connection: Connection) -> Callable[[], Any]:
    """Takes what is sent as it comes, and gives it when it is asked for; EOFError where nothing comes any more.

    A parent that had to wait until this device is done could feed no other, and each would wait for the other where
    both have more to say than a pipe holds.
    """
    messages: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

    def read() -> None:
        try:
            while True:
                messages.put((connection.recv(),))
        except (EOFError, OSError):
            messages.put(())

    def receive() -> Any:
        message = messages.get()
        if not message:
            raise EOFError
        return message[0]

    Thread(target=read, daemon=True).start()
    return receive


def _work(connection: Connection, spec: RunSpec, base: Located, adapters: Mapping[str, Located], device: str) -> None:
    """A worker's life: loads, says how much memory is free, then does what it is sent."""
    from harness.engine.load import ModelServer, load_tokenizer

    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        server = ModelServer.loaded(spec, base, adapters, load_tokenizer(spec, base), device)
        receive = _inbox(connection)
        connection.send(server.free_bytes)
        while True:
            adapter, kind = receive()
            for _, found in server.compute(adapter, kind, iter(receive, None)):
                connection.send(found)
            connection.send(None)
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return  # The parent has gone, or says stop itself.
    except BaseException as error:
        connection.send(_Failure(error))
