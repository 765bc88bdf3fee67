"""Clients for the servers of the corpus.

usage: drive.py MANNER PORT

    leave   each connects, asks, reads the answer and keeps the connection
    quit    the same, but closes it
    silent  each connects and says nothing
    keep    six connections that ask again every two seconds
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
