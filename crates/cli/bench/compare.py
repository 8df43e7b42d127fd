#!/usr/bin/env python3
"""Fetches the same rows with the tool and with its peers, one after another, in rounds, and prints rows a second, CPU seconds for
1,000 rows and peak memory of each. The server has one core, the clients the other.

    cargo build --release -p brigade-cli -p brigade-demo-server --bins --examples
    crates/cli/bench/compare.py target/release [ROWS [AT_ONCE [ROUNDS]]]

Peers that are not installed are left out: `pip install aiohttp minet`, and `npm install undici@7 p-queue@9` in a directory that
NODE_PATH names. minet is another kind of tool, so its row is for orientation.
"""

import os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
built = Path(sys.argv[1]).resolve()
rows, at_once, rounds = (int(text) for text in (sys.argv[2:] + ["50000", "200", "3"][len(sys.argv) - 2 :]))
PORT = 8707
SERVER, CLIENT = {0}, {1}


def start(command, cpus, **options):
    return subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cpus), **options)


def measure(command, directory, environment):
    """Seconds, CPU seconds, peak MiB and what was printed."""
    with open(directory / "stdout", "wb") as out:
        begin = time.monotonic()
        child = start(command, CLIENT, stdout=out, stderr=subprocess.DEVNULL, cwd=directory, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - begin
    if os.waitstatus_to_exitcode(status) != 0:
        return None
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    directory = Path(tempfile.mkdtemp(prefix="brigade-compare-"))
    urls = [f"http://127.0.0.1:{PORT}/ok?bytes=1024&row={row}" for row in range(rows)]
    (directory / "urls.txt").write_text("\n".join(urls) + "\n")
    (directory / "urls.csv").write_text("url\n" + "\n".join(urls) + "\n")
    limits = ["-j", str(at_once), "--per-host-workers", str(at_once), "--per-host-rate", "none"]
    contenders = {
        "brigade fetch": [built / "brigade", "fetch", "urls.csv", "-o", "answers.csv", *limits],
        "buffer_unordered, same client": [built / "examples/bare", "urls.txt", str(at_once)],
        "undici and p-queue": ["node", HERE / "undici.mjs", "urls.txt", str(at_once)],
        "aiohttp and a semaphore": [sys.executable, HERE / "aiohttp_loop.py", "urls.txt", str(at_once)],
        "minet fetch": ["minet", "fetch", "url", "-i", "urls.csv", "-o", "minet.csv", "-t", str(at_once), "--domain-parallelism",
                        str(at_once), "--throttle", "0", "--dont-save"],
    }
    environment = dict(os.environ)
    server = start([built / "examples/serve", f"127.0.0.1:{PORT}"], SERVER, stdout=subprocess.DEVNULL)
    time.sleep(1)
    results = {name: [] for name in contenders}
    try:
        for _ in range(rounds):
            for name, command in list(contenders.items()):
                if shutil.which(command[0]) is None:
                    continue
                for old in ("answers.csv", "answers.csv.run.json", "minet.csv"):
                    (directory / old).unlink(missing_ok=True)
                result = measure([str(word) for word in command], directory, environment)
                if result is None:
                    print(f"{name}: left out, it cannot run here", file=sys.stderr)
                    contenders.pop(name)
                else:
                    results[name].append(result)
    finally:
        server.kill()
        shutil.rmtree(directory)
    print(f"{rows} rows of 1 KiB, {at_once} at once, median of {rounds} rounds\n")
    print("| | rows/s | CPU s for 1,000 | peak MB |\n|---|---|---|---|")
    for name, measured in results.items():
        if measured:
            seconds, cpu, peak = (statistics.median(column) for column in zip(*measured))
            print(f"| {name} | {rows / seconds:,.0f} | {cpu / rows * 1000:.3f} | {peak:.0f} |")


main()
