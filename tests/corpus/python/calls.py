"""Calls of gRPC's C core (grpcio), all on one connection.

usage: calls.py serve
       calls.py leak|busy|held|threads ADDRESS

Each begins once it is given a line on standard input.

leak     streams that nobody reads to their end, and calls beside them
busy     calls and streams that end, each in its own way
held     a few streams for as long as it runs, each read by a thread, and calls beside them
threads  as leak, while other threads make calls without a pause
"""

import sys
import threading
import time
from concurrent import futures

import grpc

kept = []


def method(channel, kind, name):
    return getattr(channel, kind)(f"/fixture.Log/{name}")


def watch(channel):
    return method(channel, "unary_stream", "Watch")(b"all")  # LEAK grpc-leak


def ask(channel):
    return method(channel, "unary_unary", "Get")(b"one")


def follow(channel):
    for _ in method(channel, "unary_stream", "Tick")(b"all"):
        pass


def press(channel):
    while True:
        ask(channel)


def use(channel, mode):
    asked = 0
    while True:
        asked += 1
        ask(channel)
        if mode in ("leak", "threads"):
            kept.append(watch(channel))
        elif mode == "busy":
            ended = method(channel, "unary_stream", "Short")(b"three")
            assert len(list(ended)) == 3
            method(channel, "unary_stream", "Tick")(b"all").cancel()
            try:
                method(channel, "unary_unary", "Refuse")(b"one")
            except grpc.RpcError:
                pass
            slow = method(channel, "unary_unary", "Slow").future(b"one", timeout=5)
            kept.append(slow)
            del kept[:-20]
        time.sleep(0.3)


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        if name in ("Watch", "Tick", "Short"):
            return grpc.unary_stream_rpc_method_handler(getattr(self, name.lower()))
        return grpc.unary_unary_rpc_method_handler(getattr(self, name.lower()))

    def get(self, request, context):
        return request

    def slow(self, request, context):
        time.sleep(2)
        return request

    def refuse(self, request, context):
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    def short(self, request, context):
        yield from (b"1", b"2", b"3")

    def tick(self, request, context):
        while context.is_active():
            yield b"tick"
            time.sleep(0.3)

    def watch(self, request, context):
        yield b"first"
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()


def serve():
    global server
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=400), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("READY", f"127.0.0.1:{port}", flush=True)


def leave():
    sys.stdin.read()
    import os

    os._exit(0)


mode = sys.argv[1]
if mode == "serve":
    serve()
    leave()
print("READY", flush=True)
sys.stdin.readline()
threading.Thread(target=leave, daemon=True).start()
channel = grpc.insecure_channel(sys.argv[2])
grpc.channel_ready_future(channel).result()
if mode == "held":
    for _ in range(7):
        threading.Thread(target=follow, args=[channel], daemon=True).start()
if mode == "threads":
    for _ in range(8):
        threading.Thread(target=press, args=[channel], daemon=True).start()
use(channel, mode)
