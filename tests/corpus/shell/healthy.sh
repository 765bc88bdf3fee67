#!/usr/bin/env bash
# Asks again and again, each time by a program of its own.
# usage: healthy.sh NAME   (ports in CORPUS, as server.py prints them)
port=$(sed 's/.*"http": \([0-9]*\).*/\1/' <<<"$CORPUS")
echo ready
while :; do
  curl -s "http://127.0.0.1:$port/small/health" >/dev/null
  sleep 0.3
done
