"""Sends POSTs through a proxy, 20 at a time, and prints the count of each outcome: posts.py URL PROXY VERSION COUNT"""

import asyncio
import collections
import sys

import httpx

url, proxy, version, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
outcomes = collections.Counter()


async def work(client, numbers):
    for number in numbers:
        try:
            response = await client.post(url, content=b"x" * 1000)
            outcomes[response.status_code] += 1
        except httpx.HTTPError as error:
            outcomes[repr(error)] += 1


async def main():
    numbers = iter(range(count))
    async with httpx.AsyncClient(proxy=proxy, http2=version == "2", timeout=30) as client:
        await asyncio.gather(*(work(client, numbers) for _ in range(20)))
    print(*(f"{times} {outcome}" for outcome, times in outcomes.most_common()))


asyncio.run(main())
