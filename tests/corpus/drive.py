"""Clients for the servers of the corpus.

usage: drive.py MANNER PORT

    leave   each connects, asks, reads the answer and keeps the connection
    quit    the same, but closes it
    silent  each connects and says nothing
    keep    six connections that ask again every two seconds
    mixed   four a second of lines; one in four says something bad and waits for an answer
    chat    a member joins every second, and says something now and then; one in eight leaves
    market  five a second ask a line and go; twice in three seconds one subscribes and stays
"""
import itertools
import socket
import sys
import time

manner, port = sys.argv[1], int(sys.argv[2])
kept = []


def ask(s):
    s.sendall(b"GET /till HTTP/1.1\r\nHost: till.test\r\n\r\n")
    s.recv(4096)


def line(text):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(text + b"\n")
    return s


def mixed(n):
    s = line(b"bad" if n % 4 == 0 else b"good")
    if n % 4 == 0:
        kept.append(s)
    else:
        s.recv(100)
        s.close()
    time.sleep(0.25)


def chat(n):
    kept.append(line(b"hello"))
    kept[n * 7 % len(kept)].sendall(b"and so on\n")
    if n % 8 == 7:
        kept.pop(0).close()
    for s in kept:
        s.setblocking(False)
        try:
            s.recv(1 << 16)
        except BlockingIOError:
            pass
        s.setblocking(True)
    time.sleep(1)


def market(n):
    s = line(b"subscribe" if n % 8 == 0 else b"price")
    s.recv(100)
    if n % 8 == 0:
        kept.append(s)
    else:
        s.close()
    time.sleep(0.19)


if manner in ("mixed", "chat", "market"):
    for n in itertools.count():
        globals()[manner](n)
if manner == "keep":
    kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
for n in itertools.count():
    if manner == "keep":
        for s in kept:
            ask(s)
        time.sleep(2)
        continue
    s = socket.create_connection(("127.0.0.1", port))
    if manner != "silent":
        ask(s)
    if manner == "quit":
        s.close()
    else:
        kept.append(s)
    time.sleep(0.7)
