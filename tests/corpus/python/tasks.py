"""Programs of both sorts whose connections are opened for them: in tasks and threads that asyncio makes for a
library's function. Where it leaks, the line carries a comment with the name.

usage: tasks.py NAME   (ports in CORPUS, as server.py prints them)
"""
import asyncio
import concurrent.futures
import itertools
import json
import os
import sys
import urllib.request

AT = json.loads(os.environ["CORPUS"])
kept = []
tasks = set()
pool = concurrent.futures.ThreadPoolExecutor(3)


def pace(step, seconds=0.7):
    async def run():
        print("ready", flush=True)
        for n in itertools.count():
            await step(n)
            await asyncio.sleep(seconds)
    asyncio.run(run())


def dial():
    return asyncio.open_connection("127.0.0.1", AT["lines"])


async def ask(stream, text):
    reader, writer = stream
    writer.write(text.encode() + b"\n")
    return await reader.readline()


async def dial_in_time():
    return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", AT["lines"]), 5)  # LEAK timed


async def one_in_time(n):
    kept.append(await dial_in_time())  # END timed


async def dial_both(n):
    kept.extend(await asyncio.gather(dial(), dial()))  # LEAK gathered
    # END gathered


async def fetch_elsewhere(n):
    loop = asyncio.get_running_loop()
    page = f"http://127.0.0.1:{AT['http']}/big/elsewhere/{n}"
    kept.append(await loop.run_in_executor(None, urllib.request.urlopen, page))  # LEAK executor
    # END executor


async def fetch_by_job(n):
    page = f"http://127.0.0.1:{AT['http']}/big/jobs/{n}"
    kept.append(pool.submit(urllib.request.urlopen, page).result())  # LEAK job
    # END job


async def fetch_all(n):
    pages = [f"http://127.0.0.1:{AT['http']}/big/jobs/{n}/{part}" for part in "ab"]
    kept.extend(pool.map(urllib.request.urlopen, pages))  # LEAK jobs
    # END jobs


async def fetch_in_turn(n):
    pages = [f"http://127.0.0.1:{AT['http']}/big/turns/{n}/{part}" for part in "abc"]
    asked = [pool.submit(urllib.request.urlopen, page) for page in pages]  # LEAK jobs-in-turn
    kept.extend(one.result() for one in asked)  # END jobs-in-turn


async def read_all(n):
    pages = [f"http://127.0.0.1:{AT['http']}/big/jobs/{n}/{part}" for part in "ab"]
    for page in pool.map(urllib.request.urlopen, pages):
        with page:
            page.read()


async def greet(n):
    stream = await asyncio.open_connection("127.0.0.1", AT["lines"])  # LEAK forgotten
    await ask(stream, f"greet {n}")
    kept.append(stream)


async def greet_later(n):
    tasks.add(asyncio.create_task(greet(n)))  # nobody waits for it


async def dial_first(n):
    for first in asyncio.as_completed([open_line(n), open_line(n + 1)]):
        await first


async def open_line(n):
    reader, writer = await asyncio.open_connection("127.0.0.1", AT["lines"])  # LEAK as-completed
    writer.write(b"first\n")
    kept.append((await reader.readline(), writer))


async def both_and_closed(n):
    streams = await asyncio.gather(dial(), dial())
    for stream in streams:
        await ask(stream, f"both {n}")
        stream[1].close()


async def read_elsewhere(n):
    page = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{AT['http']}/big/read/{n}")
    with page:
        await asyncio.to_thread(page.read)


pace({
    "timed": one_in_time,
    "gathered": dial_both,
    "executor": fetch_elsewhere,
    "job": fetch_by_job,
    "jobs": fetch_all,
    "jobs-in-turn": fetch_in_turn,
    "jobs-read": read_all,
    "forgotten": greet_later,
    "as-completed": dial_first,
    "both-and-closed": both_and_closed,
    "read-elsewhere": read_elsewhere,
}[sys.argv[1]])
