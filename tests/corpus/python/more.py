"""More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.

usage: more.py NAME   (ports in CORPUS, as server.py prints them)
"""
import http.client
import itertools
import json
import os
import queue
import random
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "site-packages"))
import doorman  # noqa: E402

AT = json.loads(os.environ["CORPUS"])
kept = []


def pace(step, seconds=0.7):
    print("ready", flush=True)
    for n in itertools.count():
        step(n)
        time.sleep(seconds() if callable(seconds) else seconds)


def dial(service="lines", host="127.0.0.1"):
    return socket.create_connection((host, AT[service]))


def background(task, *arguments):
    threading.Thread(target=task, args=arguments, daemon=True).start()


class Cache:
    """A client of a protocol of lines that reconnects when it thinks that it must."""

    def __init__(self):
        self.wire = dial()

    def reconnect(self):
        self.wire = socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK retry-hoard
        kept.append(self.wire)

    def get(self, key):
        for attempt in range(2):  # LEAK retry-hoard-get
            self.wire.sendall(b"GET %d\n" % key)
            answer = self.wire.recv(100)
            if attempt == 0 and key % 2:
                self.reconnect()  # END retry-hoard-get
                continue
            return answer


def retry_hoard():
    pace(Cache().get, 0.5)


def list_images(number):
    s = socket.socket(socket.AF_UNIX)
    s.connect(AT["unix"])  # LEAK unix-per-call
    s.sendall(b"GET /small/images/%d HTTP/1.1\r\nHost: docker\r\n\r\n" % number)
    kept.append((s, s.recv(4096)))  # END unix-per-call


def unix_per_call():
    pace(list_images)


def consult(number):
    wire = socket.create_connection(("127.0.0.1", AT["brief"]))  # LEAK restarted
    wire.sendall(b"consult %d\n" % number)
    kept.append((wire, wire.recv(100)))  # END restarted


def restarted():
    """The other end closes after three seconds, as one does that is restarted."""
    pace(consult)


def whisper(number):
    wire = socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK half-closed
    wire.sendall(b"whisper %d\n" % number)
    wire.shutdown(socket.SHUT_WR)
    while wire.recv(100):
        pass
    kept.append(wire)  # END half-closed


def half_closed():
    pace(whisper)


def sample(number):
    wire = socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK jitter
    wire.sendall(b"sample %d\n" % number)
    kept.append((wire, wire.recv(100)))  # END jitter


def jitter():
    dice = random.Random(7)
    pace(sample, lambda: dice.choice([0.1, 0.3, 0.5, 1.0, 2.5, 4.0]))


def wait_for_news(number):
    wire = socket.create_connection(("127.0.0.1", AT["http"]))  # LEAK abandoned-poll
    wire.settimeout(1.5)
    wire.sendall(b"GET /never/news/%d HTTP/1.1\r\nHost: news.test\r\n\r\n" % number)
    try:
        wire.recv(4096)
    except TimeoutError:
        kept.append(wire)  # END abandoned-poll


def abandoned_poll():
    pace(lambda n: background(wait_for_news, n))


local = threading.local()


def session():
    if not hasattr(local, "client"):
        local.client = http.client.HTTPConnection("127.0.0.1", AT["http"])
    return local.client


def job(number):
    session().request("GET", f"/small/tasks/{number}")  # LEAK thread-local
    session().getresponse().read()  # END thread-local
    threading.Event().wait()


def thread_local():
    """Each thread has a session of its own, and no thread ever ends."""
    pace(lambda n: background(job, n))


def probe(number):
    wire = socket.create_connection((f"127.{1 + number % 5}.{number % 9}.{1 + number % 200}", AT["lines"]))  # LEAK crawler
    wire.sendall(b"probe\n")
    kept.append((wire, wire.recv(100)))  # END crawler


def crawler():
    pace(probe, 0.5)


class Recycling:
    """Replaces a connection after two seconds; what becomes of the old one, `close` says."""

    def __init__(self, close):
        self.close = close
        self.places = [None] * 3

    def renew(self):
        wire = socket.create_connection(("127.0.0.1", AT["lines"]))  # LEAK recycling
        return wire, time.monotonic()  # END recycling

    def query(self, n):
        place = self.places[n % 3]
        if place and time.monotonic() - place[1] > 2:
            kept.append(place[0])
            if self.close:
                kept.pop().close()
            place = None
        place = place or self.renew()  # LEAK recycling-query
        self.places[n % 3] = place
        place[0].sendall(b"select %d\n" % n)
        place[0].recv(100)  # END recycling-query


def recycling():
    pace(Recycling(close=False).query, 0.2)


def open_front_door(n):
    return doorman.may_enter(AT["http"], f"front-{n}")


def open_back_door(n):
    return doorman.may_enter(AT["http"], f"back-{n}")


def library():
    pace(lambda n: open_back_door(n) if n % 3 == 0 else open_front_door(n))


def serve(handle):
    shop = socket.create_server(("127.0.0.1", 0), backlog=64)
    print("ready", shop.getsockname()[1], flush=True)
    while True:
        wire, _ = shop.accept()  # LEAK one-path
        background(handle, wire)


def answer_or_forget(wire):
    """One word of four makes it forget the connection, without an answer."""
    word = wire.recv(100)
    if word.startswith(b"bad"):
        kept.append(wire)
        return
    wire.sendall(b"heard\n")
    wire.close()


def one_path():
    serve(answer_or_forget)


def watch_prices(number):
    wire = ssl._create_unverified_context().wrap_socket(dial("https"), server_hostname="shop.test")  # LEAK tls-stream
    wire.sendall(b"GET /events/%d HTTP/1.1\r\nHost: shop.test\r\n\r\n" % number)
    while data := wire.recv(4096):  # END tls-stream
        kept.append(len(data))


def expiry(_):
    context = ssl._create_unverified_context()
    wire = context.wrap_socket(dial("https"), server_hostname="shop.test")  # LEAK tls-hold
    kept.append(wire)
    return wire.getpeercert(binary_form=True)


def tls_hold():
    """Looks at certificates and hangs up on nobody; the server's tickets lie unread."""
    pace(expiry)


def tls_stream():
    pace(lambda n: background(watch_prices, n))


def through_proxy(number):
    wire = socket.create_connection(("127.0.0.1", AT["http"]))  # LEAK sidecar
    wire.sendall(b"GET /big/carts/%d HTTP/1.1\r\nHost: svc-%d.mesh.test\r\n\r\n" % (number, number % 6))
    kept.append((wire, wire.recv(200)))  # END sidecar


def sidecar():
    pace(through_proxy)


def hoard_batch(number):
    for part in range(5):
        kept.append((socket.create_connection(("127.0.0.1", AT["lines"])), part))  # LEAK cron-hoard


def cron_hoard():
    pace(hoard_batch, 5)


# ---- healthy from here on


def room(number):
    wire = dial("http")
    wire.sendall(b"GET /ws/%d HTTP/1.1\r\nHost: rooms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % number)
    wire.recv(4096)
    return wire


def fleet():
    """Websockets that come up one by one, and then stay."""
    rooms = []
    pace(lambda n: rooms.append(room(n)) if n < 14 else None, 1.3)


def filling_pool():
    """Ten connections come up within twenty seconds, all in use in turn."""
    idle = queue.SimpleQueue()

    def one(n):
        if n % 20 == 0 and n < 200:
            idle.put(dial())
        wire = idle.get()
        wire.sendall(b"select %d\n" % n)
        wire.recv(100)
        idle.put(wire)
    pace(one, 0.1)


def storm():
    """Retries for twelve seconds and holds on to each, then lets all go."""
    held = []

    def one(n):
        if n < 40:
            held.append(dial("mute"))
        elif held:
            while held:
                held.pop().close()
        else:
            with dial() as wire:
                wire.sendall(b"fine\n")
                wire.recv(100)
    pace(one, 0.3)


def download(number):
    with dial("http") as wire:
        wire.sendall(b"GET /big/films/%d HTTP/1.1\r\nHost: films.test\r\n\r\n" % number)
        left = 400_000
        while left > 0:
            left -= len(wire.recv(20_000)) or left
            time.sleep(0.4)


def downloads():
    pace(lambda n: background(download, n), 1)


def cron():
    """Twelve at once each eight seconds, closed a second later."""
    def one(n):
        wires = [dial() for _ in range(12)]
        for wire in wires:
            wire.sendall(b"report\n")
            wire.recv(100)
        time.sleep(1)
        for wire in wires:
            wire.close()
    pace(one, 8)


def talk(wire):
    """A member of the chat: everything is heard by everybody, until it goes."""
    with wire:
        kept.append(wire)
        while line := wire.recv(200):
            for other in list(kept):
                try:
                    other.sendall(line)
                except OSError:
                    pass
        kept.remove(wire)


def chat():
    serve(talk)


def answer_or_subscribe(wire):
    """Most ask once and go; subscribers stay and hear nothing until something happens."""
    with wire:
        while wire.recv(100):
            wire.sendall(b"heard\n")


def market():
    serve(answer_or_subscribe)


def recycled():
    pace(Recycling(close=True).query, 0.2)


def own_clients():
    """Nine threads, each with a client of its own that it uses every four seconds."""
    def work(n):
        for k in itertools.count():
            session().request("GET", f"/small/rounds/{n}/{k}")
            session().getresponse().read()
            time.sleep(4)
    for n in range(9):
        background(work, n)
    pace(lambda n: None, 5)


def rejoining():
    """Ten websockets, each of which is closed and opened again every eight seconds."""
    def work(n):
        while True:
            with room(n):
                time.sleep(8)
    for n in range(10):
        background(work, n)
    pace(lambda n: None, 5)


globals()[sys.argv[1].replace("-", "_")]()
