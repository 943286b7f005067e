"""Does a failed sign-in tell by its time whether the account exists?

Signs in with a wrong password, alternately for known and unknown accounts, over HTTP at a running instance, and
prints the medians. Usage: python benchmarks/sign_in_timing.py URL KNOWN_EMAIL [PAIRS]. An account is slowed down after
five failures, so use an instance made for this, in which KNOWN_EMAIL exists with `+1` to `+100` before the @.
Addresses are slowed down too: URL is the API's own port on loopback, which believes X-Forwarded-For.
"""

import statistics
import sys
import time

import httpx


def main() -> None:
    url, email = sys.argv[1], sys.argv[2]
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    name, _, host = email.partition("@")
    times: dict[str, list[float]] = {"known": [], "unknown": []}
    with httpx.Client(base_url=url) as client:
        for number in range(pairs):
            for kind, account in (
                ("known", f"{name}+{number % 100 + 1}@{host}"),
                ("unknown", f"nobody{number}@{host}"),
            ):
                started = time.perf_counter()
                answer = client.post(
                    "/sfp/api/auth/admin/login",
                    json={"email": account, "password": "not the password"},
                    headers={"X-Forwarded-For": f"198.51.{number // 250}.{number % 250}"},
                )
                if answer.status_code == 401:
                    times[kind].append(time.perf_counter() - started)
    known, unknown = (statistics.median(times[kind]) * 1000 for kind in ("known", "unknown"))
    print(f"known {known:.2f} ms, unknown {unknown:.2f} ms, difference {abs(known - unknown) / known:.1%}")


if __name__ == "__main__":
    main()
