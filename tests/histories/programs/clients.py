"""Clients that are recorded for an hour: they sleep nearly all the time.

usage: clients.py WHAT HTTP_PORT LINES_PORT
"""
import base64
import http.client
import math
import os
import socket
import sys
import time

what, http_port, lines_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
began = time.monotonic()
kept = []


def minutes():
    return (time.monotonic() - began) / 60


def fetch(path):
    connection = http.client.HTTPConnection("127.0.0.1", http_port)
    connection.request("GET", path)
    connection.getresponse().read()
    return connection


def session(connection=None):
    connection = connection or socket.create_connection(("127.0.0.1", lines_port))
    connection.sendall(b"hello\n")
    connection.recv(100)
    return connection


def websocket():
    connection = socket.create_connection(("127.0.0.1", http_port))
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(f"GET /ws/feed HTTP/1.1\r\nHost: feed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    connection.recv(1000)
    return connection


def ping(connection):
    connection.sendall(b"\x89\x80" + os.urandom(4))
    connection.recv(100)


def forgets_one_in_four_minutes():
    while True:
        fetch("/small/rates").close()
        kept.append(fetch("/small/rates"))
        time.sleep(240)


def leaves_six_of_a_job_behind():
    """A job every 17 minutes opens sixteen and closes ten."""
    while True:
        for number in range(16):
            connection = session()
            if number % 8 < 3:
                kept.append(connection)
            else:
                connection.close()
            time.sleep(1)
        time.sleep(17 * 60 - 16)


def pool_that_follows_the_load():
    """From 2 to 14 and back every 40 minutes; whatever is idle longer than needed is closed."""
    pool = []
    while True:
        wanted = 8 + round(6 * math.sin(minutes() / 40 * math.tau - 1.6))
        while len(pool) < wanted:
            pool.append(session())
        while len(pool) > wanted:
            pool.pop().close()
        for connection in pool:
            session(connection)
        time.sleep(40)


def reconnects_every_ten_minutes():
    shippers = [session() for _ in range(8)]
    turn = 0
    while True:
        time.sleep(75)
        shippers[turn % 8].close()
        shippers[turn % 8] = session()
        turn += 1


def quiet_websockets():
    feeds = [websocket() for _ in range(10)]
    while True:
        time.sleep(45)
        for feed in feeds:
            ping(feed)


globals()[what]()
