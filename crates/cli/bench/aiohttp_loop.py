"""aiohttp with a semaphore: aiohttp_loop.py URLS AT_ONCE >answers.csv"""

import asyncio, sys

import aiohttp


async def main(path, at_once):
    semaphore = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def fetch(url):
            async with semaphore, session.get(url) as response:
                body = await response.read()
                sys.stdout.write(f"{url},{response.status},{len(body)}\n")

        with open(path) as urls:
            await asyncio.gather(*(fetch(line.strip()) for line in urls))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
