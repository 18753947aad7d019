"""How fast a judge is asked: python -m harness.judge.bench [--n 10000] [--concurrency 100] [--latency 0.5]

A server of its own process answers each question after a fixed time, so that with so many calls under way it gives
concurrency / latency answers a second, and no client can have more. Beside the share of that which `judge` reaches
stand the answers a second of a bare client that parses nothing and keeps nothing, and the memory after each tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.judge.asking import Case, Settings, put_before
from harness.judge.rubrics import named
from tasks_uz import catalog
from tasks_uz.judged import judged_documents

_CODE = re.compile(r"check` is: ([0-9a-f]{10})")


def serve(latency_s: float) -> None:
    """The server: prints its port, then answers until it is killed."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        document = await request.json()
        await asyncio.sleep(latency_s)
        code = _CODE.search(document["messages"][1]["content"])
        text = json.dumps({"explanation": "Javob toʻgʻri va qisqa.", "correct": 1, "check": code[1] if code else ""})
        usage = {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return web.json_response({"id": "x", "model": document["model"], "choices": [choice], "usage": usage})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def cases(n: int) -> Iterator[Case]:
    """Questions to a judge, all different."""
    rubric = named("qa")
    documents = list(judged_documents(catalog.tasks()["uz_qa"]).values())
    for number in range(n):
        yield Case(number, rubric, documents[number % len(documents)], (f"Javob {number} shu deb oʻylayman.",))


async def bare(port: int, n: int, concurrency: int) -> float:
    """Answers a second of a client that does nothing but ask."""
    import aiohttp

    from harness.judge.prompts import ask_about

    (case,) = cases(1)
    request = ask_about(case.rubric, case.judged, case.answers).request
    body = json.dumps(request.body("m", structured=True, limit_name="max_tokens")).encode()
    left = iter(range(n))
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            for _ in left:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                    await response.read()

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return n / (time.perf_counter() - begun)


def memory_mib() -> float:
    """What this process holds now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def measure(n: int, concurrency: int, latency_s: float) -> dict[str, Any]:
    """Judges n answers; returns rates and the memory after each tenth, MiB."""
    command = [sys.executable, "-m", "harness.judge.bench", "--serve", "--latency", str(latency_s)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        held: list[float] = []

        def watched() -> Iterator[Case]:
            for number, case in enumerate(cases(n)):
                if number % (n // 10) == 0:
                    held.append(memory_mib())
                yield case

        turns = iter((lambda: cases(0), watched))
        with tempfile.TemporaryDirectory() as scratch:
            settings = Settings(
                judge="gpt-4o", base_url=f"http://127.0.0.1:{port}/v1", concurrency=concurrency, max_usd=1e6
            )
            begun = time.perf_counter()
            # The first time the cases are gone through is the estimate's.
            docket = put_before(lambda: next(turns)(), settings, job=["bench"], folder=Path(scratch), say=False)
            seconds = time.perf_counter() - begun
        held.append(memory_mib())
        assert len(docket.verdicts) == n
        assert not [verdict.reason for verdict in docket.verdicts.values() if verdict.reason]
        return {
            "n": n,
            "concurrency": concurrency,
            "latency_s": latency_s,
            "answers_per_s": n / seconds,
            "server_per_s": concurrency / latency_s,
            "share": n / seconds / (concurrency / latency_s),
            "bare_client_per_s": asyncio.run(bare(port, min(n, 3000), concurrency)),
            "memory_mib": [round(each) for each in held],
        }
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds an answer takes")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.latency)
    else:
        print(json.dumps(measure(chosen.n, chosen.concurrency, chosen.latency), indent=2))


if __name__ == "__main__":
    main()
