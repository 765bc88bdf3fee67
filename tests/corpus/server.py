"""The other end of every client in the corpus, and of nothing else: loopback and one UNIX socket.

usage: server.py UNIX_PATH

Prints one line of JSON with its ports when it is ready, and ends with its standard input.

HTTP is spoken on `http` (every address of 127.0.0.0/8) and on the UNIX socket; by path:

    /small..   a short body                     /big..     400,000 bytes
    /maybe..   503 each fourth time             /slow..    an answer after four seconds
    /never..   no answer at all                 /last..    an answer, then the server closes
    /events..  server-sent events for ever      /follow..  chunks for ever
    /poll..    an answer after eight seconds    /ws..      RFC 6455, pings are answered

`https` is the same behind TLS, with a certificate for shop.test that nobody signed;
`lines` answers each line with a line; `brief` does so too, and closes after three seconds; `mute` reads and never answers; `first` greets, then reads.
"""
import asyncio
import base64
import hashlib
import json
import os
import ssl
import subprocess
import sys

FILLER = b"seven crates of pears, two of quinces, none of plums; "
failures = 0


def answer(status, size, close=False):
    body = (FILLER * (size // len(FILLER) + 1))[:size]
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body


async def endless(writer, kind, line):
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    while True:
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(0.4)


async def websocket(reader, writer, fields):
    key = fields.get("sec-websocket-key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
    while True:
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
        data = bytes(b ^ mask[i & 3] for i, b in enumerate(await reader.readexactly(length)))
        if first & 15 == 8:
            return
        if first & 15 == 9:
            writer.write(bytes([0x8A, len(data)]) + data)


async def http(reader, writer):
    global failures
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        first, *rest = head.decode("latin-1").split("\r\n")
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
        if int(fields.get("content-length", 0)):
            await reader.readexactly(int(fields["content-length"]))
        path = first.split(" ")[1]
        what = path.split("/")[1].split("-")[0]
        if what == "ws":
            return await websocket(reader, writer, fields)
        if what == "events":
            await endless(writer, "text/event-stream", b"data: one more\n\n")
        if what == "follow":
            await endless(writer, "text/plain", b"one more line\n")
        if what == "never":
            await reader.read()
            return
        if what == "slow":
            await asyncio.sleep(4)
        if what == "poll":
            await asyncio.sleep(8)
        if what == "maybe":
            failures += 1
            writer.write(answer("503 Service Unavailable" if failures % 4 == 0 else "200 OK", 60_000))
        elif what == "big":
            writer.write(answer("200 OK", 400_000))
        elif what == "last":
            writer.write(answer("200 OK", 300, close=True))
            await writer.drain()
            return
        else:
            writer.write(answer("200 OK", 900))
        await writer.drain()


async def lines(reader, writer):
    while line := await reader.readline():
        writer.write(b"heard " + line)


async def brief(reader, writer):
    talk = asyncio.ensure_future(lines(reader, writer))
    await asyncio.sleep(3)
    talk.cancel()


async def mute(reader, writer):
    await reader.read()


async def first(reader, writer):
    writer.write(b"220 good day\r\n")
    while await reader.readline():
        writer.write(b"250 fine\r\n")


def guarded(talk):
    async def one(reader, writer):
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
    return one


def certificate():
    """A key and a certificate, beside the UNIX socket."""
    key, leaf = sys.argv[1] + ".key", sys.argv[1] + ".pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop.test", "-days", "2",
                    "-keyout", key, "-out", leaf], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf, key)
    return context


async def main():
    ports = {}
    secret = certificate()
    for name, talk in (("http", http), ("https", http), ("lines", lines), ("brief", brief), ("mute", mute), ("first", first)):
        tls = secret if name == "https" else None
        server = await asyncio.start_server(guarded(talk), "0.0.0.0", 0, backlog=400, ssl=tls)
        ports[name] = server.sockets[0].getsockname()[1]
    await asyncio.start_unix_server(guarded(http), sys.argv[1])
    ports["unix"] = sys.argv[1]
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
