"""Programs that only look as if they leaked, one for each name.

usage: healthy.py NAME   (ports in CORPUS, as server.py prints them)
"""
import asyncio
import http.client
import itertools
import json
import os
import queue
import socket
import socketserver
import sys
import threading
import time
import urllib.request

AT = json.loads(os.environ["CORPUS"])
BASE = f"http://127.0.0.1:{AT['http']}"


def pace(step, seconds=0.7):
    print("ready", flush=True)
    for n in itertools.count():
        step(n)
        time.sleep(seconds)


def pool():
    idle = queue.LifoQueue()
    for _ in range(8):
        idle.put(http.client.HTTPConnection("127.0.0.1", AT["http"]))

    def one(n):
        client = idle.get()
        client.request("GET", f"/small/items/{n}")
        client.getresponse().read()
        idle.put(client)

    pace(lambda n: [threading.Thread(target=one, args=(n * 8 + k,)).start() for k in range(8)], 0.5)


def churn():
    def one(n):
        with urllib.request.urlopen(f"{BASE}/small/churn/{n}") as answer:
            answer.read()
    pace(one, 0.1)


def slow():
    def one(n):
        with urllib.request.urlopen(f"{BASE}/slow/{n}") as answer:
            answer.read()
    pace(lambda n: threading.Thread(target=one, args=(n,), daemon=True).start())


def upgraded(topic):
    s = socket.create_connection(("127.0.0.1", AT["http"]))
    s.sendall(b"GET /ws/%d HTTP/1.1\r\nHost: rooms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % topic)
    s.recv(4096)
    return s


def quiet_sockets():
    rooms = [upgraded(n) for n in range(9)]
    pace(lambda n: None, 5)
    return rooms


def topics():
    """Always fourteen; the oldest gives way to a new one every four seconds."""
    rooms = [upgraded(n) for n in range(14)]

    def one(n):
        rooms.append(upgraded(14 + n))
        rooms.pop(0).close()
    pace(one, 4)


def subscriptions():
    """The same with a protocol of lines and a subscriber for each topic."""
    def subscribe(n):
        s = socket.create_connection(("127.0.0.1", AT["lines"]))
        s.sendall(b"subscribe %d\n" % n)
        s.recv(100)
        return s
    kept = [subscribe(n) for n in range(11)]

    def one(n):
        kept.append(subscribe(11 + n))
        kept.pop(0).close()
    pace(one, 3)


def poll():
    def one(n):
        while True:
            with urllib.request.urlopen(f"{BASE}/poll/{n}") as answer:
                answer.read()
    for n in range(7):
        threading.Thread(target=one, args=(n,), daemon=True).start()
    pace(lambda n: None, 5)


def ramp():
    """Twenty workers come up over a minute, then stay."""
    def work(n):
        client = http.client.HTTPConnection("127.0.0.1", AT["http"])
        for k in itertools.count():
            client.request("GET", f"/small/jobs/{n}/{k}")
            client.getresponse().read()
            time.sleep(1.5)

    def one(n):
        if n < 12:
            threading.Thread(target=work, args=(n,), daemon=True).start()
    pace(one, 1.5)


def batch():
    """Every twelve seconds fifteen at once, all closed a moment later."""
    def one(n):
        answers = [urllib.request.urlopen(f"{BASE}/small/batch/{n}/{k}") for k in range(15)]
        time.sleep(3)
        for answer in answers:
            answer.read()
            answer.close()
    pace(one, 9)


class Till(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline():
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def server():
    socketserver.ThreadingTCPServer.daemon_threads = True
    shop = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Till)
    print("ready", shop.server_address[1], flush=True)
    shop.serve_forever()


def streams():
    """Four streams, read as they come."""
    def one(n):
        for _ in urllib.request.urlopen(f"{BASE}/events/{n}"):
            pass
    for n in range(4):
        threading.Thread(target=one, args=(n,), daemon=True).start()
    pace(lambda n: None, 5)


async def tasks():
    gate = asyncio.Semaphore(6)

    async def one(n):
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", AT["lines"])
            writer.write(b"hello %d\n" % n)
            await reader.readline()
            await asyncio.sleep(2)
            writer.close()
            await writer.wait_closed()
    print("ready", flush=True)
    running = set()
    for n in itertools.count():
        task = asyncio.create_task(one(n))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(0.5)


def async_tasks():
    asyncio.run(tasks())


def mail():
    """Speaks to a server that greets first, and says goodbye."""
    def one(n):
        with socket.create_connection(("127.0.0.1", AT["first"])) as s:
            s.recv(100)
            s.sendall(b"noop\r\n")
            s.recv(100)
    pace(one, 0.4)


def pairs():
    """A socket pair to itself, and one whose other end it closed: neither is a connection."""
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    d.close()
    pace(lambda n: (a.send(b"x"), b.recv(1)), 1)
    return c


globals()[sys.argv[1].replace("-", "_")]()
