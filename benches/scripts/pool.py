"""The pool that the documentation of asyncio shows: workers, a bounded queue of inputs, and a list of results."""

import asyncio
import json
import resource
import sys
import time


async def ready(n):
    return n


async def yield_once(n):
    await asyncio.sleep(0)
    return n


async def sleep(n):
    await asyncio.sleep(0.001)
    return n


async def worker(job, queue, results):
    while True:
        n = await queue.get()
        results.append(await job(n))
        queue.task_done()


async def pool(job, jobs, at_once):
    queue, results = asyncio.Queue(1024), []
    workers = [asyncio.create_task(worker(job, queue, results)) for _ in range(at_once)]
    for n in range(jobs):
        await queue.put(n)
    await queue.join()
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return results


def main():
    work, jobs, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    job = {"ready": ready, "yield": yield_once, "sleep": sleep}[work]
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    results = asyncio.run(pool(job, jobs, at_once))
    print(json.dumps({
        "wall_ns": time.perf_counter_ns() - wall,
        "cpu_ns": time.process_time_ns() - cpu,
        "count": len(results),
        "sum": sum(results),
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }))


main()
