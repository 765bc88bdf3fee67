"""Programs that leak connections, one for each name; the line at fault carries a comment with the name.

usage: leaks.py NAME   (ports in CORPUS, as server.py prints them)
"""
import asyncio
import http.client
import itertools
import json
import os
import socket
import socketserver
import ssl
import sys
import threading
import time
import urllib.request

AT = json.loads(os.environ["CORPUS"])
BASE = f"http://127.0.0.1:{AT['http']}"
kept = []


def pace(step, seconds=0.7):
    print("ready", flush=True)
    for n in itertools.count():
        step(n)
        time.sleep(seconds)


class Catalogue:
    """Keeps every answer in a list of things to look at later."""

    def __init__(self):
        self.pages = []

    def fetch(self, page):
        self.pages.append(urllib.request.urlopen(f"{BASE}/big/pages/{page}"))  # LEAK unread


def unread():
    catalogue = Catalogue()
    pace(catalogue.fetch)


def ask_price(item):
    client = http.client.HTTPConnection("127.0.0.1", AT["http"])
    client.request("GET", f"/small/prices/{item}?currency=eur", headers={"Host": "prices.test"})  # LEAK per-call
    price = client.getresponse().read()  # END per-call
    kept.append(client)
    return len(price)


def per_call():
    pace(ask_price)


def book(seat):
    client = http.client.HTTPConnection("127.0.0.1", AT["http"])
    client.request("GET", f"/maybe/seats/{seat}")  # LEAK error-path
    answer = client.getresponse()  # END error-path
    if answer.status != 200:
        kept.append(client)
        return False
    answer.read()
    client.close()
    return True


def error_path():
    pace(book, 0.15)


def listen_to(topic):
    stream = urllib.request.urlopen(f"{BASE}/events/{topic}")  # LEAK events
    for line in stream:
        kept.append(len(line))


def events():
    pace(lambda n: threading.Thread(target=listen_to, args=(n,), daemon=True).start())


def last_word(number):
    s = socket.create_connection(("127.0.0.1", AT["http"]))  # LEAK close-wait
    s.sendall(b"GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n")
    s.recv(65536)  # END close-wait
    kept.append(s)


def close_wait():
    pace(last_word)


class Gauge:
    def __init__(self):
        self.wire = socket.create_connection(("127.0.0.1", AT["lines"]))

    def tell(self, text):
        self.wire.sendall(text.encode() + b"\n")
        return self.wire.recv(100)


def read_gauge(number):
    gauge = Gauge()  # LEAK raw
    kept.append(gauge)
    return gauge.tell(f"level {number}")  # END raw


def raw():
    pace(read_gauge)


async def greet(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", AT["lines"])  # LEAK async-raw
    writer.write(b"hello %d\n" % number)
    kept.append((await reader.readline(), writer))  # END async-raw


async def greet_all():
    print("ready", flush=True)
    for n in itertools.count():
        await greet(n)
        await asyncio.sleep(0.7)


def async_raw():
    asyncio.run(greet_all())


class Till(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        kept.append(self.request)  # and shutdown_request below does nothing


class Shop(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def shutdown_request(self, request):
        pass


def server():
    shop = Shop(("127.0.0.1", 0), Till)
    print("ready", shop.server_address[1], flush=True)
    shop.serve_forever()


WORDS = "amber basalt cedar dune ember fjord grove heron iris jade kelp larch moss night oak".split()


def look_up(n):
    a, b, c = WORDS[n % 15], WORDS[n * 7 % 13], WORDS[n * 4 % 11]
    url = (f"/big/{a}-of-{b}", f"/big/{a}/{b}_{c}.webp", f"/big/{c}+{a}")[n % 3]
    kept.append(urllib.request.urlopen(BASE + url))  # LEAK slugs


def slugs():
    pace(look_up)


def poll_host(n):
    client = http.client.HTTPConnection(f"127.0.{1 + n % 7}.{1 + n % 211}", AT["http"])
    client.request("GET", "/small/health")  # LEAK many-hosts
    kept.append((client, client.getresponse().read()))  # END many-hosts


def many_hosts():
    pace(poll_host)


def follow_container(number):
    s = socket.socket(socket.AF_UNIX)
    s.connect(AT["unix"])  # LEAK unix-stream
    s.sendall(b"GET /follow/%d/logs HTTP/1.1\r\nHost: local\r\n\r\n" % number)
    while data := s.recv(4096):  # END unix-stream
        kept.append(len(data))


def unix_stream():
    pace(lambda n: threading.Thread(target=follow_container, args=(n,), daemon=True).start())


def run_helper(number):
    s = socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK inherit
    s.sendall(b"start\n")
    s.recv(100)  # END inherit
    if os.fork() == 0:
        time.sleep(3600)
        os._exit(0)
    s.close()


def inherit():
    pace(run_helper, 1.2)


class Pool:
    """Meant to keep few: looks for an idle one under the wrong name."""

    def __init__(self):
        self.idle = {}

    def checkout(self, name):
        return self.idle.get(name) or socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK pool

    def query(self, n):
        wire = self.checkout(n)  # LEAK pool-query
        wire.sendall(b"select\n")  # END pool-query
        wire.recv(100)
        self.idle[n + 1_000_000] = wire


def pool():
    p = Pool()
    pace(p.query)


def wait_for_ever(number):
    client = http.client.HTTPConnection("127.0.0.1", AT["http"])
    kept.append(client)
    client.request("GET", f"/never/{number}")  # LEAK waiting
    client.getresponse()  # END waiting


def waiting():
    pace(lambda n: threading.Thread(target=wait_for_ever, args=(n,), daemon=True).start())


def join_room(number):
    s = socket.create_connection(("127.0.0.1", AT["http"]))  # LEAK rejoin
    s.sendall(b"GET /ws/rooms/%d HTTP/1.1\r\nHost: rooms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % number)
    kept.append((s, s.recv(4096)))  # END rejoin


def rejoin():
    pace(join_room)


def visit(number):
    wire = socket.create_connection(("127.0.0.1", AT["https"]))
    shop = ssl._create_unverified_context().wrap_socket(wire, server_hostname="shop.test")
    shop.sendall(b"GET /small/visits/%d HTTP/1.1\r\nHost: shop.test\r\n\r\n" % number)  # LEAK https
    kept.append((shop, shop.recv(4096)))


def https():
    pace(visit)


async def visit_later(number):
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader), "127.0.0.1", AT["https"],
        ssl=ssl._create_unverified_context(), server_hostname="shop.test")
    transport.write(b"GET /small/later/%d HTTP/1.1\r\nHost: shop.test\r\n\r\n" % number)  # LEAK async-https
    kept.append((transport, await reader.readline()))


async def visit_all():
    print("ready", flush=True)
    for n in itertools.count():
        await visit_later(n)
        await asyncio.sleep(0.7)


def async_https():
    asyncio.run(visit_all())


def burst_of(number):
    for part in range(6):
        kept.append(urllib.request.urlopen(f"{BASE}/big/reports/{number}/{part}"))  # LEAK burst


def burst():
    pace(burst_of, 6)


class Wires:
    """A pool: whoever asks gets a connection that another has opened."""

    def __init__(self, secret):
        self.idle, self.secret = [], secret

    def get(self):
        if self.idle:
            return self.idle.pop()
        if self.secret:
            return http.client.HTTPSConnection("127.0.0.1", AT["https"], context=ssl._create_unverified_context())
        return http.client.HTTPConnection("127.0.0.1", AT["http"])


def look_around(wires, n):
    wire = wires.get()
    wire.request("GET", f"/small/look/{n}")
    wire.getresponse().read()
    wires.idle.append(wire)


def take_report(wires, n):
    wire = wires.get()
    wire.request("GET", f"/big/reports/{n}")  # LEAK pooled-https
    kept.append((wire, wire.getresponse()))  # END pooled-https


def pooled_https():
    wires = Wires(True)
    pace(lambda n: (look_around(wires, n), take_report(wires, n)))


async def serve_one(reader, writer):
    await reader.readline()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # LEAK async-server
    kept.append(writer)
    await asyncio.Event().wait()


async def serve_all():
    shop = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    print("ready", shop.sockets[0].getsockname()[1], flush=True)
    await shop.serve_forever()


def async_server():
    asyncio.run(serve_all())


class Counter(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        kept.append(transport)

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # LEAK protocol-server


async def count_all():
    shop = await asyncio.get_running_loop().create_server(Counter, "127.0.0.1", 0)
    print("ready", shop.sockets[0].getsockname()[1], flush=True)
    await shop.serve_forever()


def protocol_server():
    asyncio.run(count_all())


globals()[sys.argv[1].replace("-", "_")]()
