"""No-op jobs through Celery and through brigade, in turns, on one RabbitMQ server.

    cargo build --release -p brigade-chaos
    python3 -m venv venv && venv/bin/pip install celery
    crates/amqp/tests/with-rabbitmq venv/bin/python crates/amqp/bench/celery_peer.py \
        --jobs 10000 --rounds 3 --brigade target/release/brigade-chaos

Both publish each job with a confirm, hold 100 deliveries a process in two worker processes, store a
persistent result in a quorum queue, and acknowledge each job after that (`task_acks_late`).

- *confirmed*: Celery's workers await the confirm of each result, as brigade does (`confirm_publish`).
- *default*: nobody awaits confirms, neither of jobs nor of results.

Celery's workers run tasks in their own process (`solo`), which is its cheapest pool for tasks that do
nothing; `--pool prefork` is its default, with a child for each worker.

Jobs a second count from the first result to the last, so neither starts count; CPU seconds are those
of the workers and their children for that time. For brigade, they are those of its whole workers.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from celery import Celery
from kombu import Exchange, Queue

PREFETCH = 100
WORKERS = 2
URL = os.environ["BRIGADE_AMQP_URL"].replace("amqp://", "pyamqp://")
NAME = os.environ.get("CELERY_PEER_QUEUE", f"celery-{os.getpid()}")
CONFIRMS = os.environ.get("CELERY_PEER_CONFIRMS") == "1"

app = Celery("celery_peer", broker=URL)
app.conf.update(
    task_queues=[Queue(NAME, Exchange(""), routing_key=NAME, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=NAME,
    task_default_queue_type="quorum",
    task_acks_late=True,
    worker_prefetch_multiplier=PREFETCH,  # for each child, and there is one
    result_persistent=True,
    broker_transport_options={"confirm_publish": CONFIRMS},
    worker_hijack_root_logger=False,
)
# The producer has no backend: a client of `rpc://` would read the results while workers work.
if "worker" in sys.argv:
    app.conf.result_backend = "rpc://"


@app.task(name="nothing")
def nothing(payload):
    return 8


def cpu_seconds(leaders):
    """CPU of these processes and their children, from /proc."""
    ticks = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry) in leaders or int(fields[1]) in leaders:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def celery(jobs, payload, pool):
    results = f"{NAME}.results"
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for name in (NAME, results):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        done = lambda: channel.queue_declare(results, passive=True).message_count

        begin = time.monotonic()
        with app.amqp.producer_pool.acquire(block=True) as producer:
            for _ in range(jobs):
                nothing.apply_async((payload,), producer=producer, reply_to=results)
        published = jobs / (time.monotonic() - begin)

        options = ["--pool", pool, "--concurrency", "1", "--loglevel", "ERROR"]
        quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        workers = []
        for number in range(WORKERS):
            command = [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-n", f"{number}@{NAME}"]
            environment = dict(os.environ, CELERY_PEER_QUEUE=NAME)
            directory = os.path.dirname(os.path.abspath(__file__))
            workers.append(subprocess.Popen(command + options + quiet, cwd=directory, env=environment,
                                            stdout=subprocess.DEVNULL))
        try:
            leaders = {worker.pid for worker in workers}
            while (first := done()) == 0:
                time.sleep(0.02)
            start, cpu = time.monotonic(), cpu_seconds(leaders)
            while done() < jobs:
                time.sleep(0.02)
            seconds, cpu = time.monotonic() - start, cpu_seconds(leaders) - cpu
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
        for name in (NAME, results):
            channel.queue_delete(name)
    return published, (jobs - first) / seconds, cpu * 1000 / (jobs - first)


def brigade(program, jobs, payload):
    command = [program, "scale", "amqp", "--jobs", str(jobs), "--workers", str(WORKERS), "--payload", str(payload)]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    fields = dict(field.split("=") for field in line.split() if "=" in field)
    number = lambda name: float(fields[name].split("/")[0].rstrip("s"))
    return number("enqueue"), number("working"), number("cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--payload", type=int, default=100)
    parser.add_argument("--pool", default="solo")
    parser.add_argument("--brigade", default="target/release/brigade-chaos")
    options = parser.parse_args()

    # What awaits confirms is decided when a process starts.
    if os.environ.get("CELERY_PEER_ONE"):
        print(*celery(options.jobs, "x" * options.payload, options.pool))
        return
    contenders = {"brigade": [], "celery confirmed": [], "celery default": []}
    for number in range(options.rounds):
        for name, rows in contenders.items():
            if name == "brigade":
                rows.append(brigade(options.brigade, options.jobs, options.payload))
            else:
                environment = dict(os.environ, CELERY_PEER_ONE="1",
                                   CELERY_PEER_CONFIRMS="1" if "confirmed" in name else "0")
                output = subprocess.run([sys.executable] + sys.argv, check=True, env=environment,
                                        stdout=subprocess.PIPE, text=True).stdout
                rows.append(tuple(map(float, output.split())))
            published, worked, cpu = rows[-1]
            print(f"round {number} {name}: published {published:.0f}/s, worked {worked:.0f}/s, "
                  f"CPU s for 1,000 {cpu:.3f}", flush=True)
    print("\n| | published/s | worked/s | CPU s of the workers for 1,000 |\n|---|--:|--:|--:|")
    for name, rows in contenders.items():
        published, worked, cpu = (statistics.median(column) for column in zip(*rows))
        print(f"| {name} | {published:,.0f} | {worked:,.0f} | {cpu:.3f} |")


if __name__ == "__main__":
    main()
