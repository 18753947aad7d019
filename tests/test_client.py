"""The client of paid servers, against a real one that fails as they do: nothing lost, nothing twice, no cap passed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer
from openai_server import Request as Document

from harness.errors import NetworkError, RecordError, UsageError, UzBenchError
from harness.ledger import Ledger
from harness.limits import Limits, duration, retry_after
from harness.openai_batch import ask_in_batches
from harness.openai_client import Answer, BudgetError, Client, Request, checked_url
from harness.prices import Usage, likely_tokens, most_tokens, read_prices

ROOT = Path(__file__).parent.parent
KEY = "sk-planted-0123456789abcdefABCDEF"
INPUT_USD, OUTPUT_USD = 2.50, 10.00


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / "calls.sqlite") as found:
        yield found


def questions(n: int, *, max_tokens: int = 60) -> list[Request]:
    return [
        Request((("system", "Qisqa javob bering. " * 8), ("user", f"Savol {number}: " + "matn " * 40)), max_tokens)
        for number in range(n)
    ]


def echo(document: Document) -> str:
    """An answer that tells which question it is of."""
    return "javob: " + str(document["messages"][1]["content"]).partition(":")[0]


def client(server: OpenAIServer, ledger: Ledger, **choices: Any) -> Client:
    return Client(
        "gpt-4o", ledger, **{"job": "test", "base_url": server.url, "backoff_s": 0.02, "timeout_s": 2.0, **choices}
    )


def asked(found: Client, requests: list[Request]) -> dict[str, Answer]:
    """The answers by question; each question once."""
    answers: dict[str, Answer] = {}

    def take(request: Request, answer: Answer) -> None:
        name = request.messages[1][1].partition(":")[0]
        assert name not in answers
        answers[name] = answer

    found.ask(requests, take)
    return answers


# ---------------------------------------------------------------- faults

TRANSIENT: list[tuple[str, int | str | Fault]] = [
    ("408", 408),
    ("409", 409),
    ("429", 429),
    ("429 with retry-after", Fault(429, {"retry-after": "0.2"})),
    ("429 with retry-after-ms", Fault(429, {"retry-after-ms": "150"})),
    ("500", 500),
    ("502 in HTML", Fault(502, body="<html>bad gateway")),
    ("503", 503),
    ("cut", "cut"),
    ("stall", "stall"),
    ("malformed", "malformed"),
    ("another form", "form"),
]


@pytest.mark.parametrize("fault", [each for _, each in TRANSIENT], ids=[name for name, _ in TRANSIENT])
def test_every_question_is_answered_once_whatever_fails_on_the_way(fault: Any, ledger: Ledger) -> None:
    # Every third question fails the first time that it is asked.
    failed: set[str] = set()
    lock = threading.Lock()

    def fails(document: Document) -> Any:
        name = document["messages"][1]["content"].partition(":")[0]
        with lock:
            if int(name.split()[1]) % 3 == 0 and name not in failed:
                failed.add(name)
                return fault
        return None

    with OpenAIServer(echo, faults=fails, stall_s=3) as server:
        found = client(server, ledger, concurrency=8, timeout_s=1.0)
        answers = asked(found, questions(30))
        # As many calls as questions and faults: what failed was asked again, what was answered was not.
        assert len(server.requests) == 30 + len(failed) == 40
        assert set(answers) == {f"Savol {n}" for n in range(30)}
        assert all(answer.text == f"javob: {name}" for name, answer in answers.items())
        assert found.tally.failed == 0
        assert found.spent() >= server.usd(INPUT_USD, OUTPUT_USD) - 1e-9
        # Asked again, everything comes out of the ledger.
        again = asked(found, questions(30))
        assert all(answer.stored for answer in again.values())
        assert {name: answer.text for name, answer in again.items()} == {
            name: answer.text for name, answer in answers.items()
        }
        assert len(server.requests) == 40


def test_server_that_asks_to_wait_is_left_alone_for_so_long(ledger: Ledger) -> None:
    times: list[float] = []

    def fails(document: Document) -> Any:
        times.append(time.monotonic())
        return Fault(429, {"retry-after": "1"}) if len(times) == 1 else None

    with OpenAIServer(echo, faults=fails) as server:
        asked(client(server, ledger, concurrency=1), questions(3))
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("kind", ["null", "refusal", "length"])
def test_answer_that_is_none_is_no_text_and_says_why(kind: str, ledger: Ledger) -> None:
    with OpenAIServer(echo, faults=(kind,)) as server:
        (answer,) = asked(client(server, ledger), questions(1)).values()
    if kind == "length":
        assert answer.finish_reason == "length"
    else:
        assert answer.text is None
        assert (answer.refusal is not None) == (kind == "refusal")


def test_counts_that_cannot_be_true_are_billed_at_the_worst(ledger: Ledger) -> None:
    with OpenAIServer(echo, faults=("usage",)) as server:
        found = client(server, ledger)
        (request,) = questions(1)
        asked(found, [request])
    assert found.tally.odd_usage == 1
    assert found.spent() == pytest.approx(found.worst_usd(request))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_refusal_that_asking_again_would_not_change_is_asked_once(status: int, ledger: Ledger) -> None:
    def fails(document: Document) -> Any:
        return status if "Savol 1:" in document["messages"][1]["content"] else None

    with OpenAIServer(echo, faults=fails) as server:
        answers = asked(client(server, ledger, concurrency=1), questions(3))
        assert len(server.requests) == 3
        assert answers["Savol 1"].text is None
        assert f"HTTP {status}" in str(answers["Savol 1"].error)
        # It isn't stored: the next time it is asked again.
        assert ledger.count() == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "forbids"),
        (404, "--base-url"),
        (Fault(429, body='{"error": {"code": "insufficient_quota", "message": "x"}}'), "no money"),
    ],
)
def test_what_no_question_can_get_past_stops_at_once_in_one_line(fault: Any, said: str, ledger: Ledger) -> None:
    with OpenAIServer(echo, faults=lambda document: fault) as server:
        with pytest.raises(UsageError, match=said) as caught:
            asked(client(server, ledger, concurrency=4), questions(50))
        assert len(server.requests) <= 4
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_server_that_is_down_is_said_to_be_and_what_was_answered_is_kept(ledger: Ledger) -> None:
    with OpenAIServer(echo) as server:
        asked(client(server, ledger), questions(5))
        url = server.url
    found = Client("gpt-4o", ledger, job="test", base_url=url, backoff_s=0.01)
    with pytest.raises(NetworkError, match="gives no answers"):
        asked(found, questions(40))
    assert ledger.count() == 5


def test_server_that_knows_no_schemas_is_asked_without(ledger: Ledger) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    requests = [Request(each.messages, each.max_tokens, schema=schema) for each in questions(10)]
    with OpenAIServer(echo, schemas=False) as server:
        answers = asked(client(server, ledger, concurrency=2), requests)
        assert all(answer.text for answer in answers.values())
        assert sum("response_format" in document for document in server.requests) <= 2
        before = len(server.requests)
        # The key doesn't hang on it: a later call finds the same answers.
        asked(client(server, ledger), requests)
        assert len(server.requests) == before


def test_same_question_asked_at_once_is_one_call(ledger: Ledger) -> None:
    (request,) = questions(1)
    taken = []
    with OpenAIServer(echo, delay_s=0.1) as server:
        client(server, ledger).ask([request] * 20, lambda each, answer: taken.append(answer.text))
        assert len(server.requests) == 1
    assert taken == ["javob: Savol 0"] * 20


def test_key_of_an_answer_holds_all_that_changes_it(ledger: Ledger) -> None:
    one = Request((("user", "a"),), 10)
    other = [
        Request((("user", "b"),), 10),
        Request((("system", "a"),), 10),
        Request((("user", "a"),), 11),
        Request((("user", "a"),), 10, temperature=0.5),
        Request((("user", "a"),), 10, seed=1),
        Request((("user", "a"),), 10, schema={"type": "object"}),
        Request((("user", "a"),), 10, salt="2"),
    ]
    found = Client("gpt-4o", ledger, job="a", base_url="http://localhost:1/v1")
    keys = [found.key_of(each) for each in (one, *other)]
    keys.append(Client("gpt-4o-mini", ledger, job="a", base_url="http://localhost:1/v1").key_of(one))
    keys.append(Client("gpt-4o", ledger, job="a", base_url="http://localhost:2/v1").key_of(one))
    assert len(set(keys)) == len(keys)
    # The tag is the caller's own.
    assert found.key_of(Request((("user", "a"),), 10, tag=7)) == keys[0]


# ---------------------------------------------------------------- speed and memory


def test_calls_run_side_by_side_and_no_more_at_once_than_allowed(ledger: Ledger) -> None:
    with OpenAIServer(echo, delay_s=0.05) as server:
        asked(client(server, ledger, concurrency=16), questions(64))
        assert 8 <= server.most_at_once <= 16


def test_requests_are_read_as_they_are_needed(ledger: Ledger) -> None:
    read, most = Counter[str](), 0
    with OpenAIServer(echo) as server:

        def requests() -> Any:
            for request in questions(100):
                read["read"] += 1
                yield request

        def take(request: Request, answer: Answer) -> None:
            nonlocal most
            read["taken"] += 1
            most = max(most, read["read"] - read["taken"])

        client(server, ledger, concurrency=4).ask(requests(), take)
    assert read["taken"] == 100
    assert most <= 4


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1.5", 1.5), ("2h3m4.5s", 7384.5), ("", None), ("soon", None),
     ("-1", None), ("3x", None)],
)  # fmt: skip
def test_durations_of_headers_are_read(text: str, seconds: float | None) -> None:
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_retry_after_is_read_as_seconds_milliseconds_or_date() -> None:
    assert retry_after({"retry-after": "20"}) == 20
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "Thu, 26 Nov 2026 10:00:30 GMT"}, now=1795687200.0) == pytest.approx(30, abs=1)
    assert retry_after({}) is None
    assert retry_after({"retry-after": "99999999"}) == 600


def test_rate_that_the_headers_tell_of_is_kept_to() -> None:
    import asyncio

    # 60 requests a minute, 2 left: the third waits a second, and so does the fourth.
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "58s",
    }

    async def starts() -> list[float]:
        limits = Limits(100)
        limits.learn(headers)
        begun, found = time.monotonic(), []
        for _ in range(4):
            await limits.enter(10)
            found.append(time.monotonic() - begun)
        return found

    found = asyncio.run(starts())
    assert found[1] < 0.5
    assert found[2] == pytest.approx(1.0, abs=0.3)
    assert found[3] == pytest.approx(2.0, abs=0.4)


def test_refusals_narrow_the_window_and_successes_widen_it_again() -> None:
    limits = Limits(64)
    limits.refused(0.0)
    narrowed = limits.window
    limits.refused(0.0)  # The same moment: one refusal counts.
    assert limits.window == narrowed < 64
    for _ in range(2000):
        limits.succeeded()
    assert limits.window == 64


# ---------------------------------------------------------------- money


@pytest.mark.parametrize("cap", [0.01, 0.03, 0.09])
def test_cap_is_never_passed_with_64_workers_and_faults(cap: float, ledger: Ledger) -> None:
    turn = iter(range(10**6))

    def fails(document: Document) -> Any:
        return {3: "cut", 5: 500, 7: "usage"}.get(next(turn) % 11)

    taken: list[Answer] = []
    with OpenAIServer(echo, faults=fails, delay_s=0.01) as server:
        found = client(server, ledger, concurrency=64, max_usd=cap)
        with pytest.raises(BudgetError, match=rf"--max-usd {cap} is reached"):
            found.ask(questions(600), lambda request, answer: taken.append(answer))
        # The server's own bill, what it cut off included.
        assert server.usd(INPUT_USD, OUTPUT_USD) <= cap
        assert found.spent() <= cap + 1e-9
        # It is used: less than one call's worst price is left.
        assert found.spent() > cap - 2 * found.worst_usd(questions(1)[0])
        # What was under way when the cap was reached has been paid for, and was handed over.
        assert len([answer for answer in taken if answer.error is None]) == ledger.count()
    # With a higher cap the same job goes on, and counts what it spent.
    with OpenAIServer(echo) as server:
        found = client(server, ledger, max_usd=cap)
        with pytest.raises(BudgetError):
            found.ask(questions(600), lambda request, answer: None)


def test_estimate_is_near_what_it_comes_to(ledger: Ledger) -> None:
    import itertools

    words = ["Oʻzbekiston", "maktab", "kitobxonlik", "bahorda", "yomgʻir", "yogʻdi", "bugun", "bozorga", "bordik", "va"]
    texts = itertools.islice(itertools.permutations(words, 6), 0, 6000, 60)
    requests = [Request((("user", f"Savol {n}: {' '.join(text)}. " * 6),), 80, likely_output=30) for n, text in
                enumerate(texts)]  # fmt: skip
    # A server that counts as GPT-4o's tokenizer does on such texts, measured beforehand: 2.87 characters a token.
    with OpenAIServer(lambda document: "soʻz " * 18) as server:
        found = client(server, ledger)
        estimate = found.estimate(requests)
        found.ask(requests, lambda request, answer: None)
        assert estimate.n == 100
        assert estimate.usd == pytest.approx(found.spent(), rel=0.15)
        assert found.estimate(requests).n_stored == 100
        assert found.estimate(requests).usd == 0


def test_estimate_of_a_batch_is_half(ledger: Ledger) -> None:
    found = Client("gpt-4o", ledger, job="test", base_url="http://localhost:1/v1")
    assert found.estimate(questions(5), batch=True).usd == pytest.approx(found.estimate(questions(5)).usd / 2)


def test_calls_that_a_kill_cut_off_stay_counted_at_their_worst(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l") as one:
        number = one.reserve("job", 0.3, 1.0)
        assert number is not None
    with Ledger(tmp_path / "l") as two:
        assert two.spent("job") == two.unsettled("job") == 0.3
        assert two.reserve("job", 0.8, 1.0) is None
        assert two.reserve("other", 0.8, 1.0) is not None
        two.settle(number, 0.1, {"k": {"text": "a"}})
        assert two.spent("job") == pytest.approx(0.1)
        assert two.get(["k", "l"]) == {"k": {"text": "a"}}


def test_many_processes_share_one_cap(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from pathlib import Path
        from harness.ledger import Ledger
        with Ledger(Path({str(tmp_path / "l")!r})) as ledger:
            print(sum(ledger.reserve("job", 0.01, 1.0) is not None for _ in range(60)))
    """)
    workers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
    assert sum(int(worker.communicate(timeout=120)[0]) for worker in workers) in (99, 100)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18"])
def test_price_of_a_dated_model_is_that_of_its_name(model: str) -> None:
    price = read_prices().of(model)
    assert price.usd(Usage(1_000_000, 0)) == (0.15 if "mini" in model else 2.5)
    assert price.usd(Usage(1_000_000, 0, 1_000_000)) == (0.075 if "mini" in model else 1.25)


def test_model_without_a_price_is_free_here_and_refused_elsewhere() -> None:
    assert read_prices().of("any", "http://127.0.0.1:8000/v1").usd(Usage(10**6, 10**6)) == 0
    with pytest.raises(UsageError, match="--prices FILE"):
        read_prices().of("any", "https://example.org/v1")
    with pytest.raises(UsageError, match="'gpt-4' isn't known"):
        read_prices().of("gpt-4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: 3", "expected the key 'models'"),
        ("models: {a: {input: 1, outputs: 2}}", "Did you mean 'output'"),
        ("models: {a: {input: -1, output: 2}}", "below 0"),
        ("models: {a: {input: 1, output: 2}}\nbatch_discount: 3", "batch_discount 3"),
    ],
)
def test_wrong_price_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UzBenchError, match=said):
        read_prices(path)


def test_no_text_has_more_tokens_than_the_bound_and_uzbek_is_told_by_its_letters() -> None:
    assert most_tokens(["Oʻzbek", "тил"]) >= len("Oʻzbek".encode()) + len("тил".encode())
    assert likely_tokens("a" * 287) == pytest.approx(100)
    assert likely_tokens("ж" * 250) == pytest.approx(100)
    assert likely_tokens("") == 0


# ---------------------------------------------------------------- a kill

KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, "tests")
    from test_client import questions
    from harness.ledger import Ledger
    from harness.openai_client import Client
    with Ledger(Path(sys.argv[2])) as ledger:
        client = Client("gpt-4o", ledger, job="test", base_url=sys.argv[1], concurrency=8, max_usd=1.0)
        client.ask(questions(120), lambda request, answer: None)
""")


def test_killed_and_typed_again_asks_no_more_than_was_under_way(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    command = [sys.executable, "-c", KILLED]
    with OpenAIServer(echo, delay_s=0.05) as server:
        for n_killed in (25, 70):
            process = subprocess.Popen([*command, server.url, str(path)], cwd=ROOT)
            while len(server.requests) < n_killed and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run([*command, server.url, str(path)], cwd=ROOT, check=True, timeout=120)
        # Two kills, each with eight calls under way at most.
        assert 120 <= len(server.requests) <= 120 + 2 * 8
        with Ledger(path) as ledger:
            assert ledger.count() == 120
            assert ledger.spent("test") >= server.usd(INPUT_USD, OUTPUT_USD) - 1e-9


# ---------------------------------------------------------------- batches


def batched(found: Client, requests: list[Request], **choices: Any) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    ask_in_batches(
        found, requests, lambda request, answer: answers.update({request.messages[1][1][:9]: answer}),
        poll_s=0.02, **choices,
    )  # fmt: skip
    return answers


def once(share: int) -> Callable[[Document], bool]:
    """Fails every so-manieth line the first time."""
    seen: set[str] = set()

    def fails(document: Document) -> bool:
        name = document["messages"][1]["content"].partition(":")[0]
        if int(name.split()[1]) % share or name in seen:
            return False
        seen.add(name)
        return True

    return fails


def test_batch_is_half_the_price_and_failed_lines_are_handed_in_again(ledger: Ledger) -> None:
    with OpenAIServer(echo, batch_faults=once(33)) as server:
        found = client(server, ledger)
        answers = batched(found, questions(200))
        assert len(server.batches) == 2
        assert len(server.requests) == 200 + 7
        assert {answer.text for answer in answers.values()} == {f"javob: Savol {n}" for n in range(200)}
        assert found.spent() == pytest.approx(server.usd(INPUT_USD / 2, OUTPUT_USD / 2))
    assert ledger.pending_batches("test") == []


def test_line_that_always_fails_is_given_up_with_its_reason(ledger: Ledger) -> None:
    with OpenAIServer(echo, batch_faults=lambda document: "Savol 3:" in document["messages"][1]["content"]) as server:
        answers = batched(client(server, ledger), questions(10), rounds=2)
    assert "HTTP 500" in str(answers["Savol 3: "].error)
    assert sum(answer.error is None for answer in answers.values()) == 9


BATCHED = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, "tests")
    from test_client import questions
    from harness.ledger import Ledger
    from harness.openai_batch import ask_in_batches
    from harness.openai_client import Client
    with Ledger(Path(sys.argv[2])) as ledger:
        client = Client("gpt-4o", ledger, job="test", base_url=sys.argv[1], max_usd=5.0)
        taken = []
        ask_in_batches(client, questions(60), lambda request, answer: taken.append(answer), poll_s=0.05)
        print(len(taken), sum(answer.error is None for answer in taken))
""")


def test_batch_is_found_again_after_a_kill_and_no_line_is_handed_in_twice(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    command = [sys.executable, "-c", BATCHED]
    with OpenAIServer(echo, batch_polls=10**9) as server:
        process = subprocess.Popen([*command, server.url, str(path)], cwd=ROOT, stdout=subprocess.DEVNULL)
        while not (server.batches and next(iter(server.batches.values()))["polls"]):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        server.batch_polls = 2
        done = subprocess.run([*command, server.url, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.stdout.split() == ["60", "60"], done.stderr
        assert len(server.batches) == 1
        assert len(server.requests) == 60


def test_batch_that_the_server_took_while_its_name_was_lost_is_found_by_its_mark(ledger: Ledger) -> None:
    with OpenAIServer(echo) as server:
        found = client(server, ledger)
        batched(found, questions(5))
        (batch,) = server.batches.values()
        # As if the process had died between the server's answer and the note of it.
        requests = questions(8)[5:]
        keys = [found.key_of(each) for each in requests]
        spending = ledger.open_batch("test", "lost", keys, 0.5, None)
        assert spending is not None
        lines = [{"custom_id": key, "body": found.body(each)} for key, each in zip(keys, requests, strict=True)]
        server.files["f"] = "\n".join(map(json.dumps, lines)).encode()
        server.make_batch({"endpoint": batch["endpoint"], "input_file_id": "f", "metadata": {"uzbench": "lost"}})
        n_requests = len(server.requests)
        answers = batched(found, requests)
        assert len(server.batches) == 2
        assert len(server.requests) == n_requests + 3
        assert all(answer.text for answer in answers.values())


def test_batch_that_never_got_there_is_handed_in(ledger: Ledger) -> None:
    with OpenAIServer(echo) as server:
        found = client(server, ledger)
        keys = [found.key_of(each) for each in questions(3)]
        ledger.open_batch("test", "never", keys, 0.5, None)
        answers = batched(found, questions(3))
        assert all(answer.text for answer in answers.values())
        assert found.spent() == pytest.approx(server.usd(INPUT_USD / 2, OUTPUT_USD / 2))


def test_batches_keep_to_the_cap_part_by_part(ledger: Ledger) -> None:
    with OpenAIServer(echo) as server:
        found = client(server, ledger, max_usd=0.03)
        with pytest.raises(BudgetError):
            batched(found, questions(300))
        assert len(server.batches) > 1
        assert server.usd(INPUT_USD / 2, OUTPUT_USD / 2) <= 0.03
        assert ledger.count() > 0


# ---------------------------------------------------------------- the key


def test_key_stands_in_a_header_and_nowhere_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said = []
    # A server that repeats the key in every error, whole and in part.
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY} or {KEY[:12]}****cdef."}})
    for fault in (Fault(400, body=body), Fault(401, body=body), Fault(500, body=body), None):
        with OpenAIServer(echo, faults=lambda document, fault=fault: fault) as server, Ledger(tmp_path / "l") as ledger:
            found = client(server, ledger, tries=2)
            try:
                found.ask(questions(3), lambda request, answer: said.append(str(answer)))
            except (UsageError, NetworkError) as error:
                said.append(repr(error) + str(error.__cause__))
            assert server.authorizations == {f"Bearer {KEY}"}
    assert any("[key]" in each for each in said)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    captured = capsys.readouterr()
    for text in (*said, caplog.text, captured.out, captured.err, written.decode("utf-8", "replace")):
        assert KEY not in text
        assert KEY[:12] not in text


def test_key_is_asked_for_where_the_server_is_not_of_this_machine(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY isn't set"):
        Client("gpt-4o", ledger, job="test")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://user:pass@host/v1", "https://h/v1?key=1", "x"])
def test_address_that_is_none_or_carries_a_secret_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_url(url)
    assert "pass@" not in str(caught.value)
    assert "key=1" not in str(caught.value)


# ---------------------------------------------------------------- the ledger


def test_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_text("not a database, but long enough to be taken for one " * 40, encoding="utf-8")
    with pytest.raises(RecordError, match="isn't a ledger of calls"):
        Ledger(path)
    with pytest.raises(RecordError, match="a directory"):
        Ledger(tmp_path)


@pytest.mark.parametrize("choice", [{"max_usd": 0.0}, {"max_usd": float("nan")}, {"concurrency": 0}])
def test_choices_that_make_no_sense_are_refused(choice: dict[str, Any], ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="expected"):
        Client("gpt-4o", ledger, job="test", base_url="http://localhost:1/v1", **choice)


def test_it_works_where_an_event_loop_runs_already(ledger: Ledger) -> None:
    import asyncio

    with OpenAIServer(echo) as server:
        found = client(server, ledger)

        async def cell() -> dict[str, Answer]:
            return asked(found, questions(3))

        assert len(asyncio.run(cell())) == 3
